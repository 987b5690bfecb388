# Reverse mode along positions, first and second order: the engine of deform_conv_few.pxi run the
# other way.
#
# The work is cut into at most PARTS parts, by images and by ranges of tiles, whatever the number
# of threads. A part walks its tiles in order. Parts of one image add into copies of its gradient;
# those, and the gradients of the weight, are added in the order of the parts.
#
# Where such copies pass the workspace, the gradient of the input has a pass of its own: a strip of
# pixels belongs to one thread at a time, which walks in order all tiles that reach it. An image in
# reals is its own strip; of others, a strip is in reals until it is done.

cdef enum:
    STRIPS = 8  # of an image at least, so that threads have work
    SHORTEST = 4096  # pixels of a strip at least


cdef struct FewBack:
    Back* back  # its blocks are not used, nor is its layout of memory
    FewJob few
    Array weight  # the gradient to write, or data == NULL
    int64_t parts, segments, length  # segments of an image, or images of a part
    int64_t out_row  # outputs of one group, padded
    int64_t one_weight  # reals of one part's gradient of the weight
    char* grad_weight  # [part][group][C/g * K][out_row]
    Planes grad  # where parts or strips add the gradient of the input
    bint direct  # that is the gradient itself; else a copy per part
    int64_t strip, strips  # pixels of one, and how many an image has; 0: none
    int64_t* reach  # [image][tile][2]: the first element that is read, and the last


cdef struct FewDesk:
    Desk desk  # a and b are [C * K][stride] here, y is [Co][stride]
    char* turned  # [tile][Co]
    char* strip


cdef int64_t lay_few(const FewBack* few, char* start, FewDesk* desk) noexcept nogil:
    """Point the desk's buffers from `start` on; returns the size of all in reals."""
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef int64_t used = back.tangents, row = job.stride, dots = job.field.corners * job.stride
    cdef int64_t columns = 0 if job.unit else job.channels * job.taps * row
    cdef int64_t* sizes = [
        job.out_channels * row, columns, 0 if few.few.omega == NULL else columns, dots,
        dots if back.second_order else 0, dots if back.second_order else 0, row, row,
        job.out_channels * row,
        few.strip * job.channels if few.strips > 0 and not few.direct else 0]
    cdef char* places[10]
    cdef int i
    for i in range(10):
        places[i] = at(start, used, job.itemsize)
        used += up(sizes[i] + 64, 16)
    desk.desk.y, desk.desk.a, desk.desk.b = places[0], places[1], places[2]
    desk.desk.dots, desk.desk.b_dots, desk.desk.u_dots = places[3], places[4], places[5]
    desk.desk.sums, desk.desk.total = places[6], places[7]
    desk.turned, desk.strip = places[8], places[9]
    return used


cdef void few_tap(const FewBack* few, Worker* w, FewDesk* desk, const pyd_planes* image_grad,
                  bint only_grad, int64_t image, int64_t tap, int64_t group, int64_t first,
                  int64_t count) noexcept nogil:
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef bint points = not only_grad and (back.offset.data != NULL or back.mask.data != NULL)
    cdef bint columns = not only_grad and few.weight.data != NULL
    cdef const void* mask = plan_tap(job, w, image, first, count, group, tap, 1)
    cdef int64_t channel = group * job.in_offset_group, row = job.taps * job.stride
    cdef int64_t start = (channel * job.taps + tap) * job.stride
    cdef char* column = at(w.columns, start, job.itemsize) if columns else NULL
    cdef char* a = at(desk.desk.a, start, job.itemsize)
    cdef char* b = at(desk.desk.b, start, job.itemsize)
    cdef Share share
    cdef pyd_planes x = planes_at(&few.few.x, image, channel)
    cdef pyd_planes own
    cdef const pyd_planes* grad = NULL
    if image_grad != NULL:
        own = image_grad[0]
        own.data += channel * own.channel * job.itemsize
        grad = &own
    if job.unit:
        row = job.stride
        a = at(desk.desk.y, channel * row, job.itemsize)
    share.slot, share.group = -1, group
    if back.second_order:
        few_second(few, w, &desk.desk, mask, a, b, column, row, &x, grad, points, &share, image,
                   tap, first, count)
        return
    if not points and grad == NULL:
        if columns:
            job.k.gather_blend(job.field.corners, &w.plan, mask, &x, job.in_offset_group, count, 0,
                               column, row)
        return
    job.k.gather_sweep(job.field.corners, &w.plan, mask, a, row, &x if points or columns else NULL,
                       job.in_offset_group, count, 0, column, grad, desk.desk.dots)
    if points:
        leave_offset_and_mask(back, &share, mask, w, &desk.desk, 0, image, tap, first, count)


cdef void few_second(const FewBack* few, Worker* w, const Desk* desk, const void* mask,
                     const char* a, const char* b, char* column, int64_t row, const pyd_planes* x,
                     const pyd_planes* grad, bint points, const Share* share, int64_t image,
                     int64_t tap, int64_t first, int64_t count) noexcept nogil:
    """What second_order does with columns along channels."""
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef int corners = job.field.corners
    cdef int64_t channels = job.in_offset_group
    cdef bint has_v = back.second.offset.data != NULL, has_mu = back.second.mask.data != NULL
    cdef bint has_u = back.u.data != NULL
    cdef pyd_planes u = planes_at(&few.few.u, image, share.group * channels)
    cdef pyd_plan slope
    cdef bint begun = False
    cdef const pyd_planes* read = x if points else NULL
    load_tangents(job, &back.second, w, image, first, count, share.group, tap)
    if few.few.omega != NULL:
        job.k.gather_sweep(corners, &w.plan, mask, b, row, read, channels, count, 0, NULL, grad,
                           desk.b_dots)
    if has_mu:
        job.k.gather_sweep(corners, &w.plan, mu_of(job, w), a, row,
                           x if column != NULL else read, channels, count, 0, column, grad,
                           desk.dots)
        begun = True
    elif has_v and points:
        job.k.gather_sweep(corners, &w.plan, NULL, a, row, x, channels, count, 0, NULL, NULL,
                           desk.dots)
    if has_u and (points or column != NULL):
        job.k.gather_sweep(corners, &w.plan, mask, a, row, &u, channels, count, begun, column,
                           NULL, desk.u_dots)
        begun = True
    if has_v and (grad != NULL or column != NULL):
        slope = slope_plan(job, w, count)
        if grad != NULL:
            job.k.gather_sweep(corners, &slope, mask, a, row, NULL, channels, count, 0, NULL, grad,
                               NULL)
        if column != NULL:
            job.k.gather_blend(corners, &slope, mask, x, channels, count, begun, column, row)
        begun = True
    if column != NULL and not begun:
        clear_rows(job, column, row, count)
    if points:
        leave_second(back, share, mask, w, desk, 0, image, tap, first, count)


cdef void few_carry(const FewBack* few, const char* weight, int64_t image, int64_t count,
                    const char* y, char* columns) noexcept nogil:
    """columns [C * K][stride] = y carried back by the weight."""
    cdef const Job* job = &few.back.job
    cdef int64_t deep = job.in_group * job.taps, group, o
    weight = at(weight, image * few.few.weight_set, job.itemsize)
    for group in range(job.groups):
        o = group * job.out_group
        job.k.product(deep, count, job.out_group, at(weight, o * deep, job.itemsize), 1, deep,
                      at(y, o * job.stride, job.itemsize), job.stride, job.k.panel,
                      at(columns, group * deep * job.stride, job.itemsize), job.stride, 0)


cdef void few_back_tile(const FewBack* few, Worker* w, FewDesk* desk, const pyd_planes* grad,
                        bint only_grad, char* grad_weight, int64_t image,
                        int64_t first) noexcept nogil:
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, job.positions - first), tap, group
    cdef int64_t deep = job.in_group * job.taps, stride = job.stride
    cdef pyd_matrix m = along(&back.grad_output, image, 0, first)
    enter_tile(job, w, first, count)
    w.plan.adjacent = side_by_side(job, &few.few.x)
    job.k.load(&m, job.out_channels, count, desk.desk.y, stride)
    if not job.unit:
        few_carry(few, few.few.weight, image, count, desk.desk.y, desk.desk.a)
    if few.few.omega != NULL:
        few_carry(few, few.few.omega, image, count, desk.desk.y, desk.desk.b)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            few_tap(few, w, desk, grad, only_grad, image, tap, group, first, count)
    if only_grad or few.weight.data == NULL:
        return
    m = across(&back.grad_output, image, 0, first)
    job.k.load(&m, count, job.out_channels, desk.turned, job.out_channels)
    for group in range(job.groups):
        job.k.product(deep, few.out_row, count,
                      at(w.columns, group * deep * stride, job.itemsize), stride, 1,
                      at(desk.turned, group * job.out_group, job.itemsize), job.out_channels,
                      job.k.panel, at(grad_weight, group * deep * few.out_row, job.itemsize),
                      few.out_row, 1)


cdef void few_image(const FewBack* few, Worker* w, int64_t part, int64_t image) noexcept nogil:
    """One part's share of one image."""
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef int64_t segment = part % few.segments, tile, end
    cdef bint has_grad = back.input.data != NULL and few.strips == 0
    cdef FewDesk desk
    cdef pyd_planes grad = planes_at(&few.grad, image if few.direct else part, 0)
    cdef pyd_matrix m
    lay_few(few, <char*> w.extra, &desk)
    if has_grad and (segment == 0 or not few.direct):
        memset(grad.data, 0, few.grad.image * job.itemsize)
    tile = segment * job.tiles // few.segments
    end = (segment + 1) * job.tiles // few.segments
    while tile < end:
        few_back_tile(few, w, &desk, &grad if has_grad else NULL, False,
                      at(few.grad_weight, part * few.one_weight, job.itemsize), image,
                      tile * job.tile)
        tile += 1
    if has_grad and not few.direct and few.segments == 1:
        m = flat(&back.input, image)
        job.k.store(grad.data, 0, 1, few.grad.image, NULL, &m)


cdef void few_part(const FewBack* few, Worker* w, int64_t part) noexcept nogil:
    cdef int64_t image, end
    if few.segments > 1:
        few_image(few, w, part, part // few.segments)
        return
    image = part * few.length
    end = least(few.back.job.batch, image + few.length)
    while image < end:
        few_image(few, w, part, image)
        image += 1


cdef void few_reach(const FewBack* few, Worker* w, int64_t task) noexcept nogil:
    """Which elements of an image one tile reads: of each plane, where channels are not the last."""
    cdef const Job* job = &few.back.job
    cdef int64_t first = task % job.tiles * job.tile, tap, group, t, b, low, high, i
    cdef int64_t count = least(job.tile, job.positions - first)
    low, high = few.few.x.first.count, -1
    enter_tile(job, w, first, count)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            plan_tap(job, w, task // job.tiles, first, count, group, tap, 1)
            for b in range(job.field.corners):
                for t in range(count):
                    i = w.plan.reach[b * job.stride + t]
                    high = most(high, i)
                    low = least(low, i if i >= 0 else low)
    few.reach[2 * task], few.reach[2 * task + 1] = low, high


cdef void few_strip(const FewBack* few, Worker* w, int64_t task) noexcept nogil:
    """The gradient of one strip of an image."""
    cdef const Back* back = few.back
    cdef const Job* job = &back.job
    cdef int64_t image = task // few.strips, pixel = task % few.strips * few.strip, tile, c
    cdef int64_t count = least(few.strip, job.pixels - pixel), rows = job.channels
    cdef FewDesk desk
    cdef pyd_planes grad = planes_at(&few.grad, image, 0)
    cdef const int64_t* reach
    cdef pyd_matrix m = along(&back.input, image, 0, pixel)
    grad.first, grad.count = pixel * back.input.position, count * back.input.position
    if job.channels_last:
        rows, m.row = 1, 0
    lay_few(few, <char*> w.extra, &desk)
    if few.direct:
        grad.data += grad.first * job.itemsize
    else:
        grad.data = desk.strip
        grad.channel = 1 if job.channels_last else count
    for c in range(rows):
        memset(at(grad.data, c * grad.channel, job.itemsize), 0, grad.count * job.itemsize)
    for tile in range(job.tiles):
        reach = &few.reach[2 * (image * job.tiles + tile)]
        if reach[0] < grad.first + grad.count and reach[1] >= grad.first:
            few_back_tile(few, w, &desk, &grad, True, NULL, image, tile * job.tile)
    if not few.direct:
        m.column = 1
        job.k.store(grad.data, grad.count, rows, grad.count, NULL, &m)


cdef void few_finish_image(const FewBack* few, int64_t image) noexcept nogil:
    """Add the copies of one image's gradient in order, and write it."""
    cdef const Job* job = &few.back.job
    cdef int64_t segment
    cdef char* first = planes_at(&few.grad, image * few.segments, 0).data
    cdef pyd_matrix m = flat(&few.back.input, image)
    for segment in range(1, few.segments):
        job.k.add(at(first, segment * few.grad.image, job.itemsize), NULL, few.grad.image, first)
    job.k.store(first, 0, 1, few.grad.image, NULL, &m)


cdef void few_finish_weight(const FewBack* few, int64_t set, int64_t parts) noexcept nogil:
    """Add the gradients of `parts` parts in order, and write them as one set."""
    cdef const Job* job = &few.back.job
    cdef int64_t part, group, deep = job.in_group * job.taps
    cdef char* first = at(few.grad_weight, set * parts * few.one_weight, job.itemsize)
    cdef pyd_matrix m
    for part in range(1, parts):
        job.k.add(at(first, part * few.one_weight, job.itemsize), NULL, few.one_weight, first)
    for group in range(job.groups):
        m = flat(&few.weight, 0)
        m.data += (set * few.few.weight_set + group * job.out_group * deep) * few.weight.itemsize
        m.row = 1
        m.column = deep
        job.k.store(at(first, group * deep * few.out_row, job.itemsize), few.out_row, deep,
                    job.out_group, NULL, &m)


cdef void share_out(FewBack* few) noexcept:
    """Cut the work into parts, and say where the gradient of the input adds up."""
    cdef Back* back = few.back
    cdef Job* job = &back.job
    cdef int64_t image = job.channels * job.pixels * job.itemsize
    few.segments = least(job.tiles, (PARTS + job.batch - 1) // job.batch)
    few.length = 1 if back.per_sample else (job.batch + PARTS - 1) // PARTS
    few.parts = job.batch * few.segments
    if few.segments == 1:
        few.parts = (job.batch + few.length - 1) // few.length
    few.direct = back.input.storage == PYD_NATIVE and few.segments == 1
    if few.direct or back.input.data == NULL or few.parts * image <= job.workspace:
        return
    few.direct = back.input.storage == PYD_NATIVE
    few.strip = least(job.pixels, most(SHORTEST, least(
        (job.pixels + STRIPS - 1) // STRIPS, job.workspace // (job.channels * job.itemsize))))
    few.strips = (job.pixels + few.strip - 1) // few.strip


cdef inline int64_t few_back(const Back* back) noexcept:
    return FEW_SECOND if back.second_order else FEW


cdef object few_backward(Back* back, weight, grad_weight, omega, Memory memory):
    """The same as run_backward and run_local_backward."""
    cdef FewBack few
    cdef FewDesk desk
    cdef Worker* workers
    cdef int64_t task, columns
    cdef int threads, of_strips
    cdef Job* job = &back.job
    memset(&few, 0, sizeof(few))
    few.back = back
    few.weight = take(grad_weight, job.out_channels * job.in_group * job.taps, 1, False)
    columns = 0 if job.unit else job.channels * job.taps
    set_tile(job, (2 if omega is None else 3) * columns + 2 * job.out_channels)
    job.tile = up(job.tile, 16)
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = job.tile
    few.few.x, few.few.u = planes_of(job, &job.input), planes_of(job, &back.u)
    few.few.weight = weight_in_reals(job, weight, memory)
    few.few.omega = weight_in_reals(job, omega, memory)
    few.few.weight_set = weight.size // job.batch if back.per_sample else 0
    few.grad = planes_of(job, &back.input)
    set_steps(job, few.few.x.pixel)
    share_out(&few)
    threads = threads_for(2 * job.multiplications, few.parts)
    of_strips = threads_for(2 * job.multiplications, job.batch * few.strips)
    if few.strips > 0 and few.direct and of_strips == 1:  # in order, parts need no copies
        few.strips, threads = 0, 1
    if not few.direct:
        few.grad.first.storage, few.grad.itemsize = PYD_NATIVE, job.itemsize
        if few.strips == 0 and back.input.data != NULL:
            few.grad.first.data = memory.take((few.parts * few.grad.image + 64) * job.itemsize)
    if few.strips > 0:
        few.reach = <int64_t*> memory.take(job.batch * job.tiles * 16)
    few.out_row = up(job.out_group, job.k.lanes)
    few.one_weight = job.channels * job.taps * few.out_row
    if few.weight.data != NULL:
        few.grad_weight = memory.take((few.parts * few.one_weight + 64) * job.itemsize, True)
    back.tangents = tangent_reals(job) if back.second_order else 0
    workers = hire(job, <int> most(threads, of_strips), columns, 0, lay_few(&few, NULL, &desk),
                   memory)
    if (few.strips == 0 or few.weight.data != NULL or back.offset.data != NULL
            or back.mask.data != NULL):
        for task in prange(few.parts, nogil=True, num_threads=threads, schedule="dynamic"):
            few_part(&few, &workers[threadid()], task)
    if few.strips > 0:
        for task in prange(job.batch * job.tiles, nogil=True, num_threads=of_strips,
                           schedule="static"):
            few_reach(&few, &workers[threadid()], task)
        for task in prange(job.batch * few.strips, nogil=True, num_threads=of_strips,
                           schedule="dynamic"):
            few_strip(&few, &workers[threadid()], task)
    elif back.input.data != NULL and few.segments > 1 and not few.direct:
        for task in prange(job.batch, nogil=True, num_threads=threads, schedule="static"):
            few_finish_image(&few, task)
    if few.weight.data != NULL and back.per_sample:
        for task in prange(job.batch, nogil=True, num_threads=threads, schedule="static"):
            few_finish_weight(&few, task, few.segments)
    elif few.weight.data != NULL:
        few_finish_weight(&few, 0, few.parts)
