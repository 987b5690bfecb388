# Deformable convolution along positions: for channels too few to fill registers, and for images too
# large to copy.
#
# Columns are [channel and tap][position], in the order of the weight as it is given, so that
# nothing is packed and the output comes out in rows of positions. Images are read where they lie,
# in any layout and storage.

cdef enum:
    FEW = 8  # channels of an offset group
    FEW_SECOND = 4  # in the double backward, which gathers a corner up to four times
    FEW_TILE = 192  # positions of the forward pass: no thread waits long for the last one
    PARTS = 8  # of the work of a backward pass, whatever the number of threads


cdef struct Planes:  # images as they lie; distances in elements
    pyd_planes first  # of the first image; data == NULL: absent
    int64_t image, pixel
    int itemsize


cdef struct FewJob:
    Planes x
    char* weight  # [set][Co][C/g * K] in reals
    int64_t weight_set  # elements of one set; 0 when all samples share it
    const void* bias
    # Forward mode: the directions along which the output is differentiated.
    const Tangents* tangents  # NULL: it is not
    Planes u
    char* omega  # as weight, or NULL


cdef Planes planes_of(const Job* job, const Array* images) noexcept nogil:
    cdef Planes p
    p.first.data, p.first.storage = images.data, images.storage
    p.first.channel = images.channel
    p.first.first, p.first.count = 0, job.pixels * images.position
    p.image, p.pixel, p.itemsize = images.batch, images.position, images.itemsize
    return p


cdef inline pyd_planes planes_at(const Planes* p, int64_t image, int64_t channel) noexcept nogil:
    """From there on."""
    cdef pyd_planes one = p.first
    one.data += (image * p.image + channel * one.channel) * p.itemsize
    return one


cdef bint side_by_side(const Job* job, const Planes* x) noexcept nogil:
    """Whether the last axis' two corners are neighbours in memory."""
    return x.pixel == 1 and job.field.length == 2 and job.field.size[job.rank - 1] > 1


cdef pyd_matrix flat(const Array* a, int64_t image) noexcept nogil:
    """One image as a single row."""
    cdef pyd_matrix m = across(a, image, 0, 0)
    m.row = 0
    m.column = 1
    return m


cdef char* weight_in_reals(const Job* job, weight, Memory memory) except? NULL:
    """All sets of a weight as they lie, or NULL for None."""
    if weight is None:
        return NULL
    cdef Array w = take(weight, 1, weight.size, False)
    cdef pyd_matrix m = flat(&w, 0)
    cdef char* to = w.data
    if w.storage != PYD_NATIVE:
        to = memory.take(weight.size * job.itemsize)
        job.k.load(&m, 1, weight.size, to, 0)
    return to


cdef void few_tangent(const Job* job, const Tangents* tangents, Worker* w, const void* mask,
                      const pyd_planes* x, const pyd_planes* u, int64_t count, bint begun,
                      char* column, int64_t row) noexcept nogil:
    """What tangent_columns does, for all channels of the planned tap's offset group."""
    cdef int64_t channels = job.in_offset_group
    cdef int corners = job.field.corners
    cdef pyd_plan slope
    if tangents.mask.data != NULL:
        job.k.gather_blend(corners, &w.plan, mu_of(job, w), x, channels, count, begun, column, row)
        begun = True
    if u != NULL:
        job.k.gather_blend(corners, &w.plan, mask, u, channels, count, begun, column, row)
        begun = True
    if tangents.offset.data != NULL:
        slope = slope_plan(job, w, count)
        job.k.gather_blend(corners, &slope, mask, x, channels, count, begun, column, row)
        begun = True
    if not begun:
        clear_rows(job, column, row, count)


cdef void clear_rows(const Job* job, char* column, int64_t row, int64_t count) noexcept nogil:
    cdef int64_t c
    for c in range(job.in_offset_group):
        memset(at(column, c * row, job.itemsize), 0, count * job.itemsize)


cdef pyd_plan slope_plan(const Job* job, Worker* w, int64_t count) noexcept nogil:
    """The planned tap with the corners' weights of sum_d v_d D_d."""
    cdef pyd_plan slope = w.plan
    slope_weights(job, w, count)
    slope.weight, slope.read = extra_weights(job, w), extra_read(job, w)
    return slope


cdef void few_forward_tile(const Job* job, const FewJob* few, Worker* w, int64_t image,
                           int64_t first) noexcept nogil:
    cdef int64_t count = least(job.tile, job.positions - first), tap, group, channel, row, start
    cdef int64_t stride = job.stride, all_columns = job.channels * job.taps * stride
    cdef const Tangents* tangents = few.tangents
    cdef const void* mask
    cdef pyd_planes x, u
    cdef char* columns = <char*> w.columns
    cdef char* to
    cdef pyd_matrix m = along(&job.out, image, 0, first)
    enter_tile(job, w, first, count)
    w.plan.adjacent = side_by_side(job, &few.x)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            mask = plan_tap(job, w, image, first, count, group, tap, tangents != NULL)
            channel = group * job.in_offset_group
            start = (channel * job.taps + tap) * stride
            to, row = at(columns, start, job.itemsize), job.taps * stride
            if job.unit:  # taps add up in the output's rows
                to, row = at(w.out, channel * stride, job.itemsize), stride
            x = planes_at(&few.x, image, channel)
            if tangents == NULL or few.omega != NULL:
                job.k.gather_blend(job.field.corners, &w.plan, mask, &x, job.in_offset_group,
                                   count, job.unit and tap > 0, to, row)
            if tangents == NULL:
                continue
            if few.omega != NULL:  # these columns behind the plain ones
                to = at(to, all_columns, job.itemsize)
            load_tangents(job, tangents, w, image, first, count, group, tap)
            u = planes_at(&few.u, image, channel)
            few_tangent(job, tangents, w, mask, &x, NULL if few.u.first.data == NULL else &u,
                        count, job.unit and tap > 0, to, row)
    to, row = <char*> w.out, stride
    if not job.unit:
        if job.out.storage == PYD_NATIVE and m.column == 1 and count % job.k.lanes == 0:
            to, row = m.data, m.row  # rows of whole registers need no copy
        if few.omega != NULL:
            few_product(job, at(few.omega, image * few.weight_set, job.itemsize), columns, count,
                        to, row, 0)
            columns = at(columns, all_columns, job.itemsize)
        few_product(job, at(few.weight, image * few.weight_set, job.itemsize), columns, count, to,
                    row, few.omega != NULL)
    if few.bias != NULL:
        job.k.add_rows(few.bias, job.out_channels, count, to, row)
    if to == w.out:
        job.k.store(to, row, job.out_channels, count, NULL, &m)


cdef void few_product(const Job* job, const char* weight, const char* columns, int64_t count,
                      char* to, int64_t row, int accumulate) noexcept nogil:
    """to [Co][row] (+)= weight * columns"""
    cdef int64_t group, deep = job.in_group * job.taps, o
    for group in range(job.groups):
        o = group * job.out_group
        job.k.product(job.out_group, count, deep, at(weight, o * deep, job.itemsize), deep, 1,
                      at(columns, group * deep * job.stride, job.itemsize), job.stride,
                      job.k.panel, at(to, o * row, job.itemsize), row, accumulate)


cdef bint copies_fit(const Job* job, int64_t channels) noexcept:
    """Whether copies of so many channels of an image, side by side, stay within the workspace."""
    return job.pixels * channels * job.itemsize <= job.workspace


cdef bint by_planes(const Job* job, int64_t few, int64_t channels) noexcept:
    """Take this path: too few channels to fill registers, or images of which not so many channels
    can be copied."""
    return job.in_offset_group <= few or not (in_place(job, &job.input)
                                              or copies_fit(job, channels))


cdef object few_forward(Job* job, weight, const void* bias, Memory memory):
    cdef FewJob few
    memset(&few, 0, sizeof(few))
    few.bias = bias
    run_few(job, &few, weight, None, memory)


cdef object few_jvp(Job* job, weight, const Tangents* tangents, const Array* u, omega,
                    const void* beta, Memory memory):
    """The derivative of the output along the tangents; beta is the bias's."""
    cdef FewJob few
    memset(&few, 0, sizeof(few))
    few.bias = beta
    few.tangents = tangents
    few.u = planes_of(job, u)
    run_few(job, &few, weight, omega, memory)


cdef object run_few(Job* job, FewJob* few, weight, omega, Memory memory):
    cdef Worker* workers
    cdef int64_t task, columns = 0 if job.unit else job.channels * job.taps
    cdef int threads
    if omega is not None:
        columns *= 2
    set_tile(job, columns + job.out_channels)
    job.tile = least(FEW_TILE, up(job.tile, 16))
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = job.tile
    threads = threads_for(job.multiplications, job.tiles * job.batch)
    few.x = planes_of(job, &job.input)
    set_steps(job, few.x.pixel)
    few.weight = weight_in_reals(job, weight, memory)
    few.omega = weight_in_reals(job, omega, memory)
    if weight is not None and weight.ndim == job.rank + 3:
        few.weight_set = weight.size // job.batch
    workers = hire(job, threads, columns, job.out_channels,
                   0 if few.tangents == NULL else tangent_reals(job), memory)
    for task in prange(job.batch * job.tiles, nogil=True, num_threads=threads, schedule="dynamic"):
        few_forward_tile(job, few, &workers[threadid()], task // job.tiles,
                         task % job.tiles * job.tile)
