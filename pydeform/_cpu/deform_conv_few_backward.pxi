# Reverse mode for few channels: the engine of deform_conv_few.pxi run the other way.
#
# The work is cut into at most PARTS parts, by images and by ranges of tiles, whatever the number
# of threads. A part walks its tiles in order. Parts of one image add into copies of its gradient,
# and those and the gradients of the weight are added in the order of the parts.

cdef struct FewBack:
    Job job
    FewJob few
    Array grad_output, input, weight  # all but the first to write; NULL: not needed
    Samples offset, mask
    int64_t parts, segments, length  # segments of an image, or images of a part
    int64_t out_row  # outputs of one group, padded
    int64_t one_weight  # reals of one part's gradient of the weight
    char* grad_weight  # [part][group][C/g * K][out_row]
    Planes grad  # where the parts add the gradient of the input: direct, or a copy per part


cdef struct FewDesk:
    char* y  # [Co][stride]
    char* turned  # [tile][Co]
    char* a  # [C * K][stride]: y carried back by the weight, if there is one
    char* dots  # [corners][stride]
    char* sums  # [stride]


cdef int64_t lay_few(const Job* job, char* start, FewDesk* desk) noexcept nogil:
    cdef int64_t used = 0
    cdef int64_t* sizes = [
        job.out_channels * job.stride, job.out_channels * job.stride,
        0 if job.unit else job.channels * job.taps * job.stride, job.field.corners * job.stride,
        job.stride]
    cdef char* places[5]
    cdef int i
    for i in range(5):
        places[i] = at(start, used, job.itemsize)
        used += up(sizes[i] + 64, 16)
    desk.y, desk.turned, desk.a, desk.dots, desk.sums = (
        places[0], places[1], places[2], places[3], places[4])
    return used


cdef void few_points(const FewBack* back, Worker* w, FewDesk* desk, const void* mask, int64_t image,
                     int64_t group, int64_t tap, int64_t first, int64_t count) noexcept nogil:
    """mbar = A s and pbar_d = m A D_d of one tap of one offset group."""
    cdef const Job* job = &back.job
    cdef int d
    if back.mask.data != NULL:
        job.k.contract(&job.field, &w.plan, 0, desk.dots, NULL, count, 0, desk.sums)
        store_row(job, &back.mask, 0, image, group, tap, first, count, desk.sums)
    if back.offset.data != NULL:
        for d in range(job.rank):
            job.k.contract(&job.field, &w.plan, 1 << d, desk.dots, mask, count, 0, desk.sums)
            store_row(job, &back.offset, d, image, group, tap, first, count, desk.sums)


cdef void few_tap(const FewBack* back, Worker* w, FewDesk* desk, const char* x, char* grad,
                  int64_t image, int64_t tap, int64_t group, int64_t first,
                  int64_t count) noexcept nogil:
    cdef const Job* job = &back.job
    cdef bint points = back.offset.data != NULL or back.mask.data != NULL
    cdef const void* mask = plan_tap(job, w, image, first, count, group, tap, 1)
    cdef int64_t channel = group * job.in_offset_group, row = job.taps * job.stride
    cdef int64_t start = (channel * job.taps + tap) * job.stride
    cdef char* column = at(w.columns, start, job.itemsize)
    cdef char* a = at(desk.a, start, job.itemsize)
    if job.unit:
        row = job.stride
        a = at(desk.y, channel * row, job.itemsize)
    x = at(x, channel * back.few.x.channel, job.itemsize)
    if not points and grad == NULL:
        job.k.gather_blend(job.field.corners, &w.plan, mask, x, back.few.x.channel,
                           job.in_offset_group, count, column, row)
        return
    job.k.gather_sweep(job.field.corners, &w.plan, mask, a, row, x, back.few.x.channel,
                       job.in_offset_group, count, column if back.weight.data != NULL else NULL,
                       NULL if grad == NULL else at(grad, channel * back.grad.channel,
                                                    job.itemsize), desk.dots)
    if points:
        few_points(back, w, desk, mask, image, group, tap, first, count)


cdef void few_back_tile(const FewBack* back, Worker* w, FewDesk* desk, const char* x, char* grad,
                        char* grad_weight, int64_t image, int64_t first) noexcept nogil:
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, job.positions - first), tap, group, o
    cdef int64_t deep = job.in_group * job.taps, stride = job.stride
    cdef pyd_matrix m = along(&back.grad_output, image, 0, first)
    enter_tile(job, w, first, count)
    w.plan.adjacent = side_by_side(job, &back.few.x)
    job.k.load(&m, job.out_channels, count, desk.y, stride)
    for group in range(0 if job.unit else job.groups):
        o = group * job.out_group
        job.k.product(deep, count, job.out_group, at(back.few.weight, o * deep, job.itemsize), 1,
                      deep, at(desk.y, o * stride, job.itemsize), stride, job.k.panel,
                      at(desk.a, group * deep * stride, job.itemsize), stride, 0)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            few_tap(back, w, desk, x, grad, image, tap, group, first, count)
    if back.weight.data == NULL:
        return
    m = across(&back.grad_output, image, 0, first)
    job.k.load(&m, count, job.out_channels, desk.turned, job.out_channels)
    for group in range(job.groups):
        job.k.product(deep, back.out_row, count,
                      at(w.columns, group * deep * stride, job.itemsize), stride, 1,
                      at(desk.turned, group * job.out_group, job.itemsize), job.out_channels,
                      job.k.panel, at(grad_weight, group * deep * back.out_row, job.itemsize),
                      back.out_row, 1)


cdef void few_image(const FewBack* back, Worker* w, int64_t part, int64_t image,
                    int64_t slot) noexcept nogil:
    """One part's share of one image."""
    cdef const Job* job = &back.job
    cdef int64_t segment = part % back.segments, tile, end
    cdef FewDesk desk
    cdef const char* x = at(back.few.x.data, slot * back.few.x.image, job.itemsize)
    cdef char* grad = NULL
    cdef pyd_matrix m
    lay_few(job, <char*> w.extra, &desk)
    if back.input.data != NULL:
        grad = at(back.grad.data, (image if back.grad.direct else part) * back.grad.image,
                  job.itemsize)
        memset(grad, 0, back.grad.image * job.itemsize)
    tile = segment * job.tiles // back.segments
    end = (segment + 1) * job.tiles // back.segments
    while tile < end:
        few_back_tile(back, w, &desk, x, grad,
                      at(back.grad_weight, part * back.one_weight, job.itemsize), image,
                      tile * job.tile)
        tile += 1
    if grad != NULL and not back.grad.direct and back.segments == 1:
        m = flat(&back.input, image)
        job.k.store(grad, 0, 1, back.grad.image, NULL, &m)


cdef void few_part(const FewBack* back, Worker* w, int64_t part) noexcept nogil:
    cdef int64_t image, end
    if back.segments > 1:
        few_image(back, w, part, part // back.segments, part // back.segments)
        return
    image = part * back.length
    end = least(back.job.batch, image + back.length)
    while image < end:
        few_image(back, w, part, image, image)
        image += 1


cdef void few_finish_image(const FewBack* back, int64_t image) noexcept nogil:
    """Add the copies of one image's gradient in order, and write it."""
    cdef const Job* job = &back.job
    cdef int64_t segment
    cdef char* first = at(back.grad.data, image * back.segments * back.grad.image, job.itemsize)
    cdef pyd_matrix m = flat(&back.input, image)
    for segment in range(1, back.segments):
        job.k.add(at(first, segment * back.grad.image, job.itemsize), NULL, back.grad.image, first)
    job.k.store(first, 0, 1, back.grad.image, NULL, &m)


cdef void few_finish_weight(const FewBack* back) noexcept nogil:
    cdef const Job* job = &back.job
    cdef int64_t part, group, deep = job.in_group * job.taps
    cdef pyd_matrix m
    for part in range(1, back.parts):
        job.k.add(at(back.grad_weight, part * back.one_weight, job.itemsize), NULL,
                  back.one_weight, back.grad_weight)
    for group in range(job.groups):
        m = flat(&back.weight, 0)
        m.data += group * job.out_group * deep * back.weight.itemsize
        m.row = 1
        m.column = deep
        job.k.store(at(back.grad_weight, group * deep * back.out_row, job.itemsize), back.out_row,
                    deep, job.out_group, NULL, &m)


cdef object few_backward(Back* whole, weight, grad_weight, Memory memory):
    """The same as run_backward, for few channels and a weight that all samples share."""
    cdef FewBack back
    cdef FewDesk desk
    cdef Worker* workers
    cdef int64_t task
    cdef int threads
    cdef pyd_matrix m
    memset(&back, 0, sizeof(back))
    back.job = whole.job
    cdef Job* job = &back.job
    back.grad_output, back.input = whole.grad_output, whole.input
    back.offset, back.mask = whole.offset, whole.mask
    back.weight = take(grad_weight, job.out_channels * job.in_group * job.taps, 1, False)
    cdef int64_t columns = 0 if job.unit else job.channels * job.taps
    set_tile(job, 2 * columns + 2 * job.out_channels)
    job.tile = up(job.tile, 16)
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = job.tile
    back.few.x = open_planes(job, &job.input, job.batch, memory)
    if not job.unit:
        back.few.weight = weight_in_reals(job, weight, memory)
    set_steps(job, back.few.x.pixel)
    back.segments = least(job.tiles, (PARTS + job.batch - 1) // job.batch)
    if back.input.data != NULL and (job.batch * back.segments * job.input.batch * job.itemsize
                                    > job.workspace):
        back.segments = 1
    back.length = (job.batch + PARTS - 1) // PARTS
    back.parts = job.batch * back.segments
    if back.segments == 1:
        back.parts = (job.batch + back.length - 1) // back.length
    back.grad = back.few.x
    back.grad.direct = back.few.x.direct and back.segments == 1
    back.grad.data = back.input.data
    if back.input.data != NULL and not back.grad.direct:
        back.grad.data = memory.take((back.parts * back.grad.image + 64) * job.itemsize)
    back.out_row = up(job.out_group, job.k.lanes)
    back.one_weight = job.channels * job.taps * back.out_row
    if back.weight.data != NULL:
        back.grad_weight = memory.take((back.parts * back.one_weight + 64) * job.itemsize, True)
    threads = threads_for(2 * job.multiplications, back.parts)
    workers = hire(job, threads, columns, 0, lay_few(job, NULL, &desk), memory)
    if not back.few.x.direct:
        for task in range(job.batch):
            m = flat(&job.input, task)
            job.k.load(&m, 1, back.few.x.image,
                       at(back.few.x.data, task * back.few.x.image, job.itemsize), 0)
    for task in prange(back.parts, nogil=True, num_threads=threads, schedule="dynamic"):
        few_part(&back, &workers[threadid()], task)
    if back.input.data != NULL and back.segments > 1:
        for task in prange(job.batch, nogil=True, num_threads=threads, schedule="static"):
            few_finish_image(&back, task)
    if back.weight.data != NULL:
        few_finish_weight(&back)
