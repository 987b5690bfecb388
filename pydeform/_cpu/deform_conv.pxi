# Deformable convolution, forward and forward-mode derivative.
#
# For each tile of positions and each tap: plan where it reads, blend the corners of every channel
# into columns, multiply them at once with the packed weights. No column outlives its tile.

cdef struct Weights:  # packed: [set][tap][group][panel][input channel][panel width]
    void* data
    int64_t panels  # of one group
    int64_t tap  # elements of one tap
    int64_t one  # elements of one set; 0 when all samples share it
    int64_t taps  # that one product takes at once: they follow each other within a panel
    int64_t tasks  # to pack all of them
    Array source


cdef enum:
    PACKED_ROWS = 32  # of one panel in passing, on the stack
    PACKED_AHEAD = 16  # input channels for which room is asked for


cdef void pack_panel(const Job* job, const Weights* w, int64_t task) noexcept nogil:
    """One panel of one group of one sample. Its outputs turn into columns a square at a time."""
    cdef int64_t panel = task % w.panels, rest = task // w.panels
    cdef int64_t group = rest % job.groups, one = rest // job.groups, width = job.k.panel
    cdef int64_t out = group * job.out_group + panel * width
    cdef int64_t used = least(width, job.out_group - panel * width)
    cdef int64_t row = 0, rows = job.in_group * job.taps, count, r, line
    cdef int64_t channel = 0, tap = 0, unit = 0, taps = w.taps  # of a row, and of its product
    cdef double[PACKED_ROWS * 64] turned  # [row: (channel, tap)][panel width]
    cdef char* to
    cdef const Array* weight = &w.source
    cdef pyd_matrix m
    m.storage = weight.storage
    m.row = 1
    m.column = rows
    while row < rows:
        count = least(PACKED_ROWS, rows - row)
        m.data = weight.data + (one * weight.batch + out * rows + row) * weight.itemsize
        job.k.load(&m, count, used, turned, width)
        for r in range(count):
            to = at(w.data, one * w.one + unit * w.tap + width * (
                (group * w.panels + panel) * taps * job.in_group + (tap - unit) * job.in_group
                + channel), job.itemsize)
            memcpy(to, at(turned, r * width, job.itemsize), used * job.itemsize)
            for line in range(0, width * job.itemsize, 64):
                pyd_expect(to + PACKED_AHEAD * width * job.itemsize + line)
            tap += 1
            if tap == job.taps:
                channel += 1
                tap = 0
            if tap == 0 or tap == unit + taps:
                unit = tap
                taps = least(w.taps, job.taps - unit)
        row += PACKED_ROWS


cdef void pack_each(const Job* job, const Weights* w, int64_t one) noexcept nogil:
    """Groups of one channel: [tap][output of the group][channel]."""
    cdef int64_t j
    cdef const Array* weight = &w.source
    cdef pyd_matrix m
    m.storage = weight.storage
    m.row = 1
    m.column = job.out_group * job.taps
    for j in range(job.out_group):
        m.data = weight.data + (one * weight.batch + j * job.taps) * weight.itemsize
        job.k.load(&m, job.taps, job.channels,
                   at(w.data, one * w.one + j * up(job.channels, job.k.lanes), job.itemsize), w.tap)


cdef void pack_part(const Job* job, const Weights* w, int64_t task) noexcept nogil:
    if job.in_group == 1:
        pack_each(job, w, task)
    else:
        pack_panel(job, w, task)


cdef Weights open_weights(const Job* job, array, int64_t taps, Memory memory) except *:
    """Room for weights in the order in which the product reads them; `taps` of them at once."""
    cdef Weights w
    cdef bint per_sample = array.ndim == job.rank + 3
    cdef int64_t sets = job.batch if per_sample else 1
    w.source = take(array, job.out_channels * job.in_group, job.taps, False)
    w.taps = taps
    w.panels = up(job.out_group, job.k.panel) // job.k.panel
    w.tap = job.groups * w.panels * job.in_group * job.k.panel
    w.tasks = sets * job.groups * w.panels
    if job.in_group == 1:
        w.tap = job.out_group * up(job.channels, job.k.lanes)
        w.tasks = sets
    w.one = job.taps * w.tap if per_sample else 0
    w.data = memory.take((sets * job.taps * w.tap + 64) * job.itemsize,
                         job.out_group % job.k.panel != 0)  # only a part panel has padding
    return w


cdef Weights pack_weights(const Job* job, array, int threads, Memory memory) except *:
    """Weights of single taps."""
    cdef Weights w = open_weights(job, array, 1, memory)
    cdef int64_t task
    for task in prange(w.tasks, nogil=True, num_threads=threads, schedule="static"):
        pack_part(job, &w, task)
    return w


cdef int64_t out_row(const Job* job) noexcept nogil:
    """Reals of one position's outputs: groups one by one, or outputs of all groups one by one
    where a group has one channel; each padded to whole registers."""
    if job.in_group == 1:
        return job.out_group * up(job.channels, job.k.lanes)
    return job.groups * up(job.out_group, job.k.lanes)


cdef void multiply(const Job* job, const Weights* w, int64_t image, int64_t tap, int64_t taps,
                   int64_t count, const void* columns, int64_t column_row, void* out,
                   int accumulate) noexcept nogil:
    """out [count][out_row] (+)= columns [count][taps * channels] * weights."""
    cdef int64_t group, j, padded_channels = up(job.channels, job.k.lanes)
    cdef int64_t deep = taps * job.in_group, padded = up(job.out_group, job.k.lanes)
    cdef const void* packed
    if job.in_group == 1:
        for j in range(job.out_group):
            job.k.multiply_each(count, job.channels, columns, column_row,
                                at(w.data, image * w.one + tap * w.tap + j * padded_channels,
                                   job.itemsize),
                                at(out, j * padded_channels, job.itemsize), out_row(job),
                                accumulate)
        return
    for group in range(job.groups):
        packed = at(w.data, image * w.one + tap * w.tap
                    + group * w.panels * deep * job.k.panel, job.itemsize)
        job.k.product(count, padded, deep, at(columns, group * job.in_group, job.itemsize),
                      column_row, 1, packed, job.k.panel, deep * job.k.panel,
                      at(out, group * padded, job.itemsize), out_row(job), accumulate)


cdef void store_out(const Job* job, const Array* to, const void* out, const void* bias,
                    int64_t image, int64_t first, int64_t count) noexcept nogil:
    """Write a tile of outputs; `bias` is in the order of out_row."""
    cdef bint each = job.in_group == 1
    cdef int64_t parts = job.out_group if each else job.groups, part, start
    cdef int64_t columns = job.channels if each else job.out_group
    cdef pyd_matrix m
    for part in range(parts):
        start = part * up(columns, job.k.lanes)
        m = across(to, image, part if each else part * columns, first)
        if each:
            m.column *= job.out_group
        job.k.store(at(out, start, job.itemsize), out_row(job), count, columns,
                    NULL if bias == NULL else at(bias, start, job.itemsize), &m)


cdef const void* load_bias(const Job* job, array, Memory memory) except? NULL:
    """The bias in the order of out_row, or NULL for None."""
    cdef bint each = job.in_group == 1
    cdef int64_t columns = job.channels if each else job.out_group
    cdef Array bias = take(array, job.out_channels, 1, False)
    cdef pyd_matrix m
    cdef char* to
    if array is None:
        return NULL
    m.data = bias.data
    m.storage = bias.storage
    m.row = 1 if each else columns
    m.column = job.out_group if each else 1
    to = memory.take((out_row(job) + 64) * job.itemsize)
    job.k.load(&m, job.out_channels // columns, columns, to, up(columns, job.k.lanes))
    return to


cdef void forward_tile(const Job* job, const Images* images, const Weights* w, const void* bias,
                       Worker* worker, int64_t image, int64_t first) noexcept nogil:
    cdef int64_t count = least(job.tile, job.positions - first)
    cdef int64_t tap, group, taps, unit, row = w.taps * job.channels, channel
    cdef const void* mask
    cdef const void* x = image_at(job, images, image)
    enter_tile(job, worker, first, count)
    unit = 0
    while unit < job.taps:
        taps = least(w.taps, job.taps - unit)
        for tap in range(unit, unit + taps):
            for group in range(job.offset_groups):
                mask = plan_tap(job, worker, image, first, count, group, tap, 0)
                channel = group * job.in_offset_group
                job.k.blend(job.field.corners, job.stride, worker.plan.read, worker.plan.weight,
                            mask, at(x, channel, job.itemsize), job.in_offset_group, count,
                            worker.zeros, 0,
                            at(worker.columns, (tap - unit) * job.channels + channel,
                               job.itemsize), row)
        multiply(job, w, image, unit, taps, count, worker.columns, row, worker.out, unit > 0)
        unit += taps
    store_out(job, &job.out, worker.out, bias, image, first, count)


cdef int64_t taps_at_once(const Job* job) noexcept:
    """Products want some depth, in even shares; taps can only share one when their channels are in
    one group."""
    cdef int64_t wanted = most(1, 256 // job.channels)
    cdef int64_t products = (job.taps + wanted - 1) // wanted
    return (job.taps + products - 1) // products if job.groups == 1 else 1


def deform_conv(geometry, input, offset, weight, bias, mask, out):
    """Write the deformable convolution into `out`; arguments are checked by the caller."""
    cdef Job job = make_job(geometry, input, offset, mask)
    cdef Memory memory = Memory()
    cdef Images images
    cdef Weights w
    cdef int64_t room, start, held, tiles, task, packs, strips
    cdef int threads
    if job.batch == 0:
        return
    job.out = take(out, job.out_channels, job.positions, job.channels_last)
    if by_planes(&job, FEW, job.channels):
        few_forward(&job, weight, load_vector(&job, bias, memory), memory)
        return
    set_steps(&job, job.channels)
    set_tile(&job, taps_at_once(&job) * job.channels + out_row(&job))
    tiles = job.tiles
    threads = threads_for(job.multiplications, tiles * job.batch)
    w = open_weights(&job, weight, taps_at_once(&job), memory)
    cdef const void* b = load_bias(&job, bias, memory)
    cdef Worker* workers = hire(&job, threads, w.taps * job.channels, out_row(&job), 0, memory,
                                padded=job.in_group == 1)
    room = open_images(&job, &job.input, &images, memory)
    start = 0
    while start < job.batch:
        held = least(room, job.batch - start)
        packs = w.tasks if start == 0 else 0  # often few: threads without one copy meanwhile
        strips = open_strips(&job, &images, start, held)
        for task in prange(packs + strips, nogil=True, num_threads=threads, schedule="dynamic"):
            if task < packs:
                pack_part(&job, &w, task)
            else:
                copy_strip(&job, &job.input, &images, task - packs)
        for task in prange(held * tiles, nogil=True, num_threads=threads, schedule="dynamic"):
            forward_tile(&job, &images, &w, b, &workers[threadid()], start + task // tiles,
                         task % tiles * job.tile)
        start += held


# Forward mode: tangent = beta + sum [ omega (m s) + w (mu s + m T) ], T = S_0(u) + sum_d v_d D_d.

cdef struct Tangents:  # data == NULL where the tangent is zero
    Samples offset, mask
    const Images* images  # of the input's tangent, or NULL

# Layout of Worker.extra: v [rank][stride], mu [stride], weights [corners][stride] and then their
# reads [corners][stride] as 64-bit integers.


cdef inline void* extra_weights(const Job* job, const Worker* w) noexcept nogil:
    return at(w.extra, (job.rank + 1) * job.stride, job.itemsize)


cdef inline int64_t* extra_read(const Job* job, const Worker* w) noexcept nogil:
    cdef int64_t reals = up((job.rank + 1 + job.field.corners) * job.stride, 16)
    return <int64_t*> at(w.extra, reals, job.itemsize)


cdef int64_t tangent_reals(const Job* job) noexcept:
    """Size of that part of Worker.extra, in reals."""
    return up((job.rank + 1 + job.field.corners) * job.stride, 16) \
        + job.field.corners * job.stride * 8 // job.itemsize


cdef void load_tangents(const Job* job, const Tangents* tangents, Worker* w, int64_t image,
                        int64_t first, int64_t count, int64_t group,
                        int64_t tap) noexcept nogil:
    """v and mu of one offset group and tap, into w.extra."""
    cdef pyd_matrix m
    if tangents.offset.data != NULL:
        m = sample_rows(&tangents.offset, image, group, tap, first)
        job.k.load(&m, job.rank, count, w.extra, job.stride)
    if tangents.mask.data != NULL:
        m = sample_rows(&tangents.mask, image, group, tap, first)
        job.k.load(&m, 1, count, at(w.extra, job.rank * job.stride, job.itemsize), job.stride)


cdef inline const void* v_of(const Job* job, const Worker* w, int axis) noexcept nogil:
    return at(w.extra, axis * job.stride, job.itemsize)


cdef inline const void* mu_of(const Job* job, const Worker* w) noexcept nogil:
    return at(w.extra, job.rank * job.stride, job.itemsize)


cdef void slope_weights(const Job* job, Worker* w, int64_t count) noexcept nogil:
    """Corner weights of sum_d v_d D_d, and which corners they read, into w.extra."""
    cdef int a
    for a in range(job.rank):
        job.k.corner_weights(&job.field, &w.plan, 1 << a, v_of(job, w, a), count, a > 0,
                             extra_weights(job, w))
    job.k.corners_read(&job.field, &w.plan, extra_weights(job, w), count, extra_read(job, w))


cdef void tangent_columns(const Job* job, const Tangents* tangents, Worker* w, const void* mask,
                          const void* x, const void* u, int64_t channels, int64_t count,
                          bint begun, void* columns, int64_t row) noexcept nogil:
    """columns (+)= mu s + m T for the planned tap; load_tangents came before."""
    cdef int64_t t
    if tangents.mask.data != NULL:
        job.k.blend(job.field.corners, job.stride, w.plan.read, w.plan.weight, mu_of(job, w), x,
                    channels, count, w.zeros, begun, columns, row)
        begun = True
    if u != NULL:
        job.k.blend(job.field.corners, job.stride, w.plan.read, w.plan.weight, mask, u, channels,
                    count, w.zeros, begun, columns, row)
        begun = True
    if tangents.offset.data != NULL:
        slope_weights(job, w, count)
        job.k.blend(job.field.corners, job.stride, extra_read(job, w), extra_weights(job, w), mask,
                    x, channels, count, w.zeros, begun, columns, row)
        begun = True
    if not begun:
        for t in range(count):
            memset(at(columns, t * row, job.itemsize), 0, channels * job.itemsize)


cdef void jvp_tile(const Job* job, const Images* images, const Weights* w, const Weights* omega,
                   const void* beta, const Tangents* tangents, Worker* worker, int64_t image,
                   int64_t first) noexcept nogil:
    cdef int64_t count = least(job.tile, job.positions - first)
    cdef int64_t tap, group, channel, row = job.channels
    cdef const void* mask
    cdef const void* x
    cdef const void* u
    cdef void* plain = worker.columns
    cdef void* tangent = at(worker.columns, job.stride * row, job.itemsize)
    enter_tile(job, worker, first, count)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            mask = plan_tap(job, worker, image, first, count, group, tap, 1)
            load_tangents(job, tangents, worker, image, first, count, group, tap)
            channel = group * job.in_offset_group
            x = at(image_at(job, images, image), channel, job.itemsize)
            u = NULL
            if tangents.images != NULL:
                u = at(image_at(job, tangents.images, image), channel, job.itemsize)
            if omega.data != NULL:
                job.k.blend(job.field.corners, job.stride, worker.plan.read, worker.plan.weight,
                            mask, x, job.in_offset_group, count, worker.zeros, 0,
                            at(plain, channel, job.itemsize), row)
            tangent_columns(job, tangents, worker, mask, x, u, job.in_offset_group, count, 0,
                            at(tangent, channel, job.itemsize), row)
        multiply(job, w, image, tap, 1, count, tangent, row, worker.out, tap > 0)
        if omega.data != NULL:
            multiply(job, omega, image, tap, 1, count, plain, row, worker.out, 1)
    store_out(job, &job.out, worker.out, beta, image, first, count)


def deform_conv_jvp(geometry, input, offset, weight, bias, mask, tangents, out, out_tangent):
    """Write the output (unless None) and its derivative along the tangents (None: zero)."""
    u, v, omega, beta, mu = tangents
    cdef Job job = make_job(geometry, input, offset, mask)
    cdef Memory memory = Memory()
    cdef Images images, u_images
    cdef Weights w, packed_omega
    cdef Tangents given
    cdef Array u_array
    cdef int64_t room, start, held, tiles, task
    cdef int threads
    if job.batch == 0:
        return
    if out is not None:
        deform_conv(geometry, input, offset, weight, bias, mask, out)
    job.out = take(out_tangent, job.out_channels, job.positions, job.channels_last)
    given.offset = take_samples(&job, v, job.rank)
    given.mask = take_samples(&job, mu, 1)
    u_array = take(u, job.channels, job.pixels, job.channels_last)
    given.images = NULL if u is None else &u_images
    if by_planes(&job, FEW, job.channels if u is None else 2 * job.channels):
        few_jvp(&job, weight, &given, &u_array, omega, load_vector(&job, beta, memory), memory)
        return
    set_steps(&job, job.channels)
    set_tile(&job, 2 * job.channels + out_row(&job))
    tiles = job.tiles
    threads = threads_for(2 * job.multiplications, tiles * job.batch)
    w = pack_weights(&job, weight, threads, memory)
    memset(&packed_omega, 0, sizeof(packed_omega))
    if omega is not None:
        packed_omega = pack_weights(&job, omega, threads, memory)
    cdef const void* b = load_bias(&job, beta, memory)
    cdef Worker* workers = hire(&job, threads, 2 * job.channels, out_row(&job), tangent_reals(&job),
                                memory)
    room = open_images(&job, &job.input, &images, memory)
    if u is not None:
        room = least(room, open_images(&job, &u_array, &u_images, memory))
    start = 0
    while start < job.batch:
        held = least(room, job.batch - start)
        bring_images(&job, &job.input, &images, start, held, threads)
        if u is not None:
            bring_images(&job, &u_array, &u_images, start, held, threads)
        for task in prange(held * tiles, nogil=True, num_threads=threads, schedule="dynamic"):
            jvp_tile(&job, &images, &w, &packed_omega, b, &given, &workers[threadid()],
                     start + task // tiles, task % tiles * job.tile)
        start += held
