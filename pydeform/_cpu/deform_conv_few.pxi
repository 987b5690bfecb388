# Deformable convolution with few channels: positions fill the registers, channels do not.
#
# Columns are [channel and tap][position], in the order of the weight as it is given, so that
# nothing is packed and the output comes out in rows of positions. Images are read in place.

cdef enum:
    FEW = 8  # channels of an offset group
    FEW_TILE = 192  # positions of the forward pass: no thread waits long for the last one
    PARTS = 8  # of the work of a backward pass, whatever the number of threads


cdef struct Planes:  # images as they lie, or as a copy in reals
    char* data
    int64_t image, channel, pixel  # distances in elements
    bint direct


cdef struct FewJob:
    Planes x
    char* weight  # [set][Co][C/g * K] in reals
    int64_t weight_set  # elements of one set; 0 when all samples share it
    const void* bias


cdef Planes open_planes(const Job* job, const Array* source, int64_t held, Memory memory) except *:
    """In place when it is in reals; else room for so many images of the same layout."""
    cdef Planes planes
    planes.image = source.batch
    planes.channel = source.channel
    planes.pixel = source.position
    planes.direct = source.storage == PYD_NATIVE
    planes.data = source.data
    if not planes.direct:
        planes.data = memory.take((held * source.batch + 64) * job.itemsize)
    return planes


cdef bint side_by_side(const Job* job, const Planes* x) noexcept nogil:
    """Whether the last axis' two corners are neighbours in memory."""
    return x.pixel == 1 and job.field.length == 2 and job.field.size[job.rank - 1] > 1


cdef pyd_matrix flat(const Array* a, int64_t image) noexcept nogil:
    """One image as a single row."""
    cdef pyd_matrix m = across(a, image, 0, 0)
    m.row = 0
    m.column = 1
    return m


cdef char* weight_in_reals(const Job* job, weight, Memory memory) except NULL:
    cdef Array w = take(weight, 1, weight.size, False)
    cdef pyd_matrix m = flat(&w, 0)
    cdef char* to = w.data
    if w.storage != PYD_NATIVE:
        to = memory.take(weight.size * job.itemsize)
        job.k.load(&m, 1, weight.size, to, 0)
    return to


cdef void few_forward_tile(const Job* job, const FewJob* few, Worker* w, int64_t image,
                           int64_t slot, int64_t first) noexcept nogil:
    cdef int64_t count = least(job.tile, job.positions - first), tap, group, channel, o, row
    cdef int64_t deep = job.in_group * job.taps, stride = job.stride
    cdef const void* mask
    cdef const char* x = at(few.x.data, slot * few.x.image, job.itemsize)
    cdef const char* weight = NULL
    cdef char* to
    cdef pyd_matrix m = along(&job.out, image, 0, first)
    enter_tile(job, w, first, count)
    w.plan.adjacent = side_by_side(job, &few.x)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            mask = plan_tap(job, w, image, first, count, group, tap, 0)
            channel = group * job.in_offset_group
            to, row = at(w.columns, (channel * job.taps + tap) * stride,
                         job.itemsize), job.taps * stride
            if job.unit:  # the first tap is written to the sums, the others are added
                to, row = <char*> w.columns, stride
                if tap == 0:
                    to = at(w.out, channel * stride, job.itemsize)
            job.k.gather_blend(job.field.corners, &w.plan, mask,
                               at(x, channel * few.x.channel, job.itemsize), few.x.channel,
                               job.in_offset_group, count, to, row)
            if job.unit and tap > 0:
                for o in range(job.in_offset_group):
                    job.k.add(at(w.columns, o * stride, job.itemsize), NULL, count,
                              at(w.out, (channel + o) * stride, job.itemsize))
    to, row = <char*> w.out, stride
    if not job.unit:
        weight = at(few.weight, image * few.weight_set, job.itemsize)
        if job.out.storage == PYD_NATIVE and m.column == 1 and count % job.k.lanes == 0:
            to, row = m.data, m.row  # rows of whole registers need no copy
    for group in range(0 if job.unit else job.groups):
        o = group * job.out_group
        job.k.product(job.out_group, count, deep, at(weight, o * deep, job.itemsize), deep, 1,
                      at(w.columns, group * deep * stride, job.itemsize), stride, job.k.panel,
                      at(to, o * row, job.itemsize), row, 0)
    if few.bias != NULL:
        job.k.add_rows(few.bias, job.out_channels, count, to, row)
    if to == w.out:
        job.k.store(to, row, job.out_channels, count, NULL, &m)


cdef bint copies_fit(const Job* job, int64_t channels) noexcept:
    """Whether so many channels of an image, side by side, stay within the workspace, or need no
    copy, or have to be copied anyway because arithmetic has another type."""
    return (job.channels_last or job.input.storage != PYD_NATIVE
            or job.pixels * channels * job.itemsize <= job.workspace)


cdef bint by_planes(const Job* job, int64_t channels) noexcept:
    """Take this path: channels too few to fill registers, or an image too large to copy."""
    return job.in_offset_group <= FEW or not copies_fit(job, channels)


cdef void few_forward(Job* job, input, weight, const void* bias, Memory memory) except *:
    cdef FewJob few
    cdef Worker* workers
    cdef int64_t start = 0, held, room = job.batch, task
    cdef int64_t columns = job.in_offset_group if job.unit else job.channels * job.taps
    cdef int threads
    cdef pyd_matrix m
    set_tile(job, columns + job.out_channels)
    job.tile = least(FEW_TILE, up(job.tile, 16))
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = job.tile
    threads = threads_for(job.multiplications, job.tiles * job.batch)
    if job.input.storage != PYD_NATIVE:
        room = most(1, least(room, job.workspace // (job.input.batch * job.itemsize)))
    few.x = open_planes(job, &job.input, room, memory)
    if not job.unit:
        few.weight = weight_in_reals(job, weight, memory)
        few.weight_set = weight.size // job.batch if weight.ndim == job.rank + 3 else 0
    few.bias = bias
    workers = hire(job, threads, columns, job.out_channels, 0, memory)
    set_steps(job, few.x.pixel)
    while start < job.batch:
        held = least(room, job.batch - start)
        if not few.x.direct:
            for task in range(held):
                m = flat(&job.input, start + task)
                job.k.load(&m, 1, few.x.image, at(few.x.data, task * few.x.image, job.itemsize),
                           0)
        for task in prange(held * job.tiles, nogil=True, num_threads=threads, schedule="dynamic"):
            few_forward_tile(job, &few, &workers[threadid()], start + task // job.tiles,
                             task // job.tiles, task % job.tiles * job.tile)
        start += held
