# Convolution with a kernel per position: deformable convolution whose weight is 1 and keeps the
# channels apart. The kernel is its mask; there is no product, and samples go straight into sums.


cdef enum:
    COPIED_BYTES = 2 << 20  # of images in bands at a time, unless
    COPIED_TILES = 24  # that leaves threads without work


cdef Job make_local(geometry, input, offset, kernel, Memory memory) except *:
    """As make_job, with views; groups are offset groups, so that a block holds whole ones."""
    cdef Job job = make_job(geometry, input, None, None)
    job.offset = view_samples(offset, job.rank)
    job.mask = view_samples(kernel, 1)
    take_taps(&job, geometry, memory)
    job.unit = True
    job.groups = job.offset_groups
    job.in_group = job.out_group = job.in_offset_group
    job.corners = job.field.corners
    if offset is None:
        job.corners = 1
    job.multiplications = (<double> job.batch * job.positions * job.taps
                           * (4 * job.channels + 16 * job.offset_groups))
    return job


cdef inline bint in_place(const Job* job, const Array* a) noexcept nogil:
    """Whether rows of channels can be read and written where they lie."""
    return job.channels_last and a.storage == PYD_NATIVE


cdef bint local_by_planes(const Job* job, int64_t few, int64_t channels) noexcept:
    """As by_planes; but where channels lie side by side, it gathers them one by one.

    Then they go together, if they fill a register, or if a part of one is loaded at once.
    """
    cdef bint whole = job.in_offset_group >= job.k.lanes or job.k.lanes * job.itemsize == 64
    return by_planes(job, few, channels) and not (job.channels_last and whole and (
        in_place(job, &job.input) or copies_fit(job, channels)))


cdef void local_tile(const Job* job, const Bands* bands, const Lie* lie, Worker* w, int64_t image,
                     int64_t first) noexcept nogil:
    cdef int64_t count = least(job.tile, job.positions - first), tap = 0, taps, group, channel
    cdef int64_t slot, end, wide
    cdef pyd_matrix to = across(&job.out, image, 0, first)
    cdef char* out = to.data if in_place(job, &job.out) else <char*> w.out
    cdef Fan fan
    lay_fan(job, 0, <char*> w.extra, &fan)
    enter_tile(job, w, first, count)
    while tap < job.taps:
        taps = least(job.fan, job.taps - tap)
        for group in range(job.offset_groups):
            slot = group % job.fan_groups
            if slot == 0:
                load_fan(job, &fan, lie, image, first, count, group,
                         least(job.fan_groups, job.offset_groups - group), tap, taps)
            if group == 0 or job.offset.data != NULL:
                plan_fan(job, w, &fan, lie, slot, count, tap, taps, 0, 0)
            channel = group * job.in_offset_group
            end = channel + job.in_offset_group
            while channel < end:
                wide = least(end - channel, bands.width - channel % bands.width)
                job.k.weigh(job.corners, taps, fan.corner, &fan.plan,
                            scale_of(job, &fan, lie, slot), band_at(job, bands, image, channel),
                            wide, count, w.zeros, tap > 0,
                            at(out, channel, job.itemsize), job.channels)
                channel += wide
        tap += taps
    if out != to.data:
        job.k.store(out, job.channels, count, job.channels, NULL, &to)


cdef object run_local(Job* job, input, out, Memory memory):
    cdef Bands bands
    cdef Fan fan
    cdef Lie lie
    cdef Worker* workers
    cdef int64_t start = 0, room, held, tiles, task
    cdef int threads
    if job.batch == 0 or job.positions == 0:
        return
    job.out = take(out, job.channels, job.positions, job.channels_last)
    if local_by_planes(job, FEW, job.channels):
        few_forward(job, None, NULL, memory)
        return
    room = open_bands(job, &job.input, &bands, memory)
    set_steps(job, bands.pixel)
    set_fan(job, 0)
    lie = lie_of(job, &job.offset, &job.mask, False)
    tiles = job.tiles
    if not bands.direct:  # images that are read soon after they were copied
        room = least(room, most((COPIED_TILES + tiles - 1) // tiles,
                                COPIED_BYTES // (bands.image * job.itemsize)))
    threads = threads_for(job.multiplications, tiles * job.batch)
    workers = hire(job, threads, 0, 0 if in_place(job, &job.out) else job.channels,
                   lay_fan(job, 0, NULL, &fan), memory)
    for task in range(threads):
        lay_fan(job, 0, <char*> workers[task].extra, &fan)
        fill_ones(job, &fan)
    while start < job.batch:
        held = least(room, job.batch - start)
        bring_bands(job, &job.input, &bands, start, held, threads)
        for task in prange(held * tiles, nogil=True, num_threads=threads, schedule="dynamic"):
            local_tile(job, &bands, &lie, &workers[threadid()], start + task // tiles,
                       task % tiles * job.tile)
        start += held


def local_conv(geometry, input, offset, kernel, out):
    """Write the sum over taps of kernel times S_0(input) into `out`."""
    cdef Memory memory = Memory()
    cdef Job job = make_local(geometry, input, offset, kernel, memory)
    run_local(&job, input, out, memory)


cdef void local_jvp_tile(const Job* job, const Images* images, const Tangents* tangents, Worker* w,
                         int64_t image, int64_t first) noexcept nogil:
    """sum over taps of mu s + m T, into the output's rows."""
    cdef int64_t count = least(job.tile, job.positions - first), tap, group, channel
    cdef const void* mask
    cdef const void* u
    cdef pyd_matrix to = across(&job.out, image, 0, first)
    cdef char* out = to.data if in_place(job, &job.out) else <char*> w.out
    enter_tile(job, w, first, count)
    for tap in range(job.taps):
        for group in range(job.offset_groups):
            mask = plan_tap(job, w, image, first, count, group, tap, 1)
            load_tangents(job, tangents, w, image, first, count, group, tap)
            channel = group * job.in_offset_group
            u = NULL
            if tangents.images != NULL:
                u = at(image_at(job, tangents.images, image), channel, job.itemsize)
            tangent_columns(job, tangents, w, mask,
                            at(image_at(job, images, image), channel, job.itemsize), u,
                            job.in_offset_group, count, tap > 0, at(out, channel, job.itemsize),
                            job.channels)
    if out != to.data:
        job.k.store(out, job.channels, count, job.channels, NULL, &to)


def local_conv_jvp(geometry, input, offset, kernel, tangents, output, output_tangent):
    """Write the output (unless None) and its derivative along the tangents (None: zero)."""
    u, v, kappa = tangents
    cdef Memory memory = Memory()
    cdef Job job = make_local(geometry, input, offset, kernel, memory)
    cdef Images images, u_images
    cdef Tangents given
    cdef Array u_array
    cdef int64_t start = 0, room, held, tiles, task
    cdef int threads
    cdef Worker* workers
    if job.batch == 0 or job.positions == 0:
        return
    if output is not None:
        local_conv(geometry, input, offset, kernel, output)
    job.out = take(output_tangent, job.channels, job.positions, job.channels_last)
    given.offset = view_samples(v, job.rank)
    given.mask = view_samples(kappa, 1)
    u_array = take(u, job.channels, job.pixels, job.channels_last)
    given.images = NULL if u is None else &u_images
    if local_by_planes(&job, FEW, job.channels if u is None else 2 * job.channels):
        few_jvp(&job, None, &given, &u_array, None, NULL, memory)
        return
    set_steps(&job, job.channels)
    set_tile(&job, job.channels)
    tiles = job.tiles
    threads = threads_for(3 * job.multiplications, tiles * job.batch)
    workers = hire(&job, threads, 0, job.channels, tangent_reals(&job), memory)
    room = open_images(&job, &job.input, &images, memory)
    if u is not None:
        room = least(room, open_images(&job, &u_array, &u_images, memory))
    while start < job.batch:
        held = least(room, job.batch - start)
        bring_images(&job, &job.input, &images, start, held, threads)
        if u is not None:
            bring_images(&job, &u_array, &u_images, start, held, threads)
        for task in prange(held * tiles, nogil=True, num_threads=threads, schedule="dynamic"):
            local_jvp_tile(&job, &images, &given, &workers[threadid()], start + task // tiles,
                           task % tiles * job.tile)
        start += held
