# The way back of weighted sums, over the blocks of _blocks.pxi: what deform_conv_backward.pxi does
# with columns, straight from the gradient of the output.


cdef void sum_points(const Back* back, const Fan* fan, int64_t slot, int64_t taps,
                     int64_t count) noexcept nogil:
    """mbar = A s and pbar_d = m A D_d from the dots of one loaded group."""
    cdef const Job* job = &back.job
    cdef int64_t t, row
    cdef int a
    cdef pyd_plan plan
    cdef const char* dots
    for t in range(taps):
        plan = plan_of(job, fan, t, 1)
        dots = at(fan.dots, t * fan.corner, job.itemsize)
        row = sample_row(job, slot) + t * job.stride
        if back.mask.data != NULL and job.corners == 1:
            memcpy(at(fan.scale_sums, row, job.itemsize), dots, count * job.itemsize)
        elif back.mask.data != NULL:
            job.k.contract(&job.field, &plan, 0, dots, NULL, count, 0,
                           at(fan.scale_sums, row, job.itemsize))
        if back.offset.data != NULL:
            for a in range(job.rank):
                job.k.contract(&job.field, &plan, 1 << a, dots, at(fan.scale, row, job.itemsize),
                               count, 0, at(fan.offset_sums, row * job.rank + a * job.stride,
                                            job.itemsize))


cdef void leave_rows(const Back* back, const Share* share, const Array* gradient, int64_t chunk,
                     int64_t image, int64_t groups, int64_t tap, int64_t taps, int64_t first,
                     int64_t count, const char* rows) noexcept nogil:
    """Put rows [group][tap][part] where they belong: the gradient, or one group's partial sums."""
    cdef const Job* job = &back.job
    cdef bint offset = gradient == &back.offset
    cdef int64_t t, part, parts = job.rank if offset else 1
    cdef pyd_matrix m
    if gradient.data == NULL:
        return
    if share.slot < 0:
        m = along(gradient, image, (share.group * job.taps + tap) * parts, first)
        job.k.store(rows, job.stride, groups * taps * parts, count, NULL, &m)
        return
    for t in range(taps):
        for part in range(parts):
            leave(back, share, gradient, part, 2 if offset else 1, chunk, image, tap + t, first,
                  count, at(rows, (t * parts + part) * job.stride, job.itemsize))


cdef void local_back_tile(const Back* back, const Block* block, Worker* w, Fan* fan, Desk* desk,
                          const char* x, char* grad, int64_t chunk, int64_t image,
                          int64_t first) noexcept nogil:
    """All taps of one block of channels: the gradients of input, offset and kernel."""
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, job.positions - first), tap = 0, taps, s, local
    cdef int64_t slot, groups = 0
    cdef int64_t row = back.row
    cdef bint points = back.offset.data != NULL or back.mask.data != NULL
    cdef const Share* share
    cdef pyd_matrix m = across(&back.grad_output, image, block.channel, first)
    cdef const char* y = m.data
    enter_tile(job, w, first, count)
    if in_place(job, &back.grad_output):
        row = job.channels
    else:
        job.k.load(&m, count, block.channels, desk.a, row)
        y = desk.a
    while tap < job.taps:
        taps = least(job.fan, job.taps - tap)
        for s in range(block.share, block.share + block.shares):
            share = &back.share[s]
            local = share.channel - block.channel
            slot = (s - block.share) % job.fan_groups
            if slot == 0:
                groups = least(job.fan_groups, block.share + block.shares - s)
                load_fan(job, fan, image, first, count, share.group, groups, tap, taps)
            if s == block.share or job.offset.data != NULL:
                plan_fan(job, w, fan, slot, count, tap, taps, 1, points and job.corners > 1)
            job.k.weigh_back(job.corners, taps, fan.corner, &fan.plan, scale_of(job, fan, slot),
                             at(y, local, job.itemsize), row,
                             at(x, local, job.itemsize) if points else NULL, share.channels, count,
                             w.zeros,
                             NULL if back.input.data == NULL else at(grad, local, job.itemsize),
                             fan.dots)
            if points:
                sum_points(back, fan, slot, taps, count)
            if points and slot == groups - 1:
                share -= slot
                leave_rows(back, share, &back.mask, chunk, image, groups, tap, taps, first, count,
                           fan.scale_sums)
                leave_rows(back, share, &back.offset, chunk, image, groups, tap, taps, first,
                           count, fan.offset_sums)
        tap += taps


cdef void local_second_tile(const Back* back, const Block* block, Worker* w, Desk* desk,
                            const char* x, const char* u, char* grad, int64_t chunk, int64_t image,
                            int64_t first) noexcept nogil:
    """The same for the double backward, tap by tap."""
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, job.positions - first), tap, s
    cdef const Share* share
    cdef pyd_matrix m = across(&back.grad_output, image, block.channel, first)
    enter_tile(job, w, first, count)
    job.k.load(&m, count, block.channels, desk.a, back.row)
    for tap in range(job.taps):
        for s in range(block.share, block.share + block.shares):
            share = &back.share[s]
            second_order(back, share, w, desk, x, u, grad, share.channel - block.channel, chunk,
                         image, tap, first, count)


cdef void local_block(const Back* back, int64_t task, int64_t round_, Worker* w) noexcept nogil:
    """One block of channels of one image; every round has one image of each chunk."""
    cdef const Job* job = &back.job
    cdef int64_t index = task % back.blocks, chunk = task // back.blocks, first = 0
    cdef int64_t image = chunk * back.length + round_
    cdef const Block* block = &back.block[index]
    cdef bint points = back.offset.data != NULL or back.mask.data != NULL
    cdef Desk desk
    cdef Fan fan
    cdef pyd_matrix m
    cdef char* x = NULL
    cdef char* u = NULL
    cdef char* grad = NULL
    if image >= least(job.batch, (chunk + 1) * back.length):
        return
    lay_out(back, at(w.extra, back.tangents, job.itemsize), &desk)
    if points or back.second_order:
        x = bring_block(back, &job.input, block, image, desk.x)
    if back.u.data != NULL:
        u = bring_block(back, &back.u, block, image, desk.u)
    if back.input.data != NULL:
        grad = desk.grad
        m = across(&back.input, image, block.channel, 0)
        if back.direct:
            grad = m.data
        else:
            memset(grad, 0, job.pixels * back.pixel * job.itemsize)
    if not back.second_order:
        lay_fan(job, 1, fan_room(back, w), &fan)
        if job.corners == 1:  # a weight of 1 is never in doubt
            fan.plan.reach = fan.plan.read
    while first < job.positions:
        if back.second_order:
            local_second_tile(back, block, w, &desk, x, u, grad, chunk, image, first)
        else:
            local_back_tile(back, block, w, &fan, &desk, x, grad, chunk, image, first)
        first += job.tile
    if back.input.data != NULL and not back.direct:
        job.k.store(grad, back.pixel, job.pixels, block.channels, NULL, &m)


cdef inline char* fan_room(const Back* back, const Worker* w) noexcept nogil:
    """A worker's fan lies behind its desk."""
    cdef Desk desk
    return at(w.extra, up(back.tangents + lay_out(back, NULL, &desk), 16), back.job.itemsize)


cdef object run_local_backward(Back* back, Memory memory):
    """For `back` with its job, arrays and flags set."""
    cdef Job* job = &back.job
    cdef Desk desk
    cdef Fan fan
    cdef Worker* workers
    cdef int64_t task, tasks, round_, extra
    cdef int threads
    if job.batch == 0:
        return
    if job.positions == 0:
        if back.input.data != NULL:
            memset(back.input.data, 0, job.batch * back.input.batch * back.input.itemsize)
        return
    if (local_by_planes(job, 2 * NARROWEST // job.itemsize) and not back.second_order
            and job.input.data != NULL):
        few_backward(back, None, None, memory)
        return
    back.direct = (job.channels_last and storage_is_native(back)
                   and not read_often(job, READS_BACK))
    plan_blocks(back, memory)
    back.rows = 0
    if back.second_order:
        set_tile(job, 2 * back.row)
        back.tangents = tangent_reals(job)
    else:
        set_fan(job, 1)
    set_steps(job, job.channels if back.direct else back.pixel)
    back.chunks = job.batch  # nothing adds up over images
    if back.slots > 0:
        back.chunks = most(1, least(job.batch, CHUNKS // back.blocks))
    back.length = (job.batch + back.chunks - 1) // back.chunks
    back.chunks = (job.batch + back.length - 1) // back.length
    tasks = back.chunks * back.blocks
    threads = threads_for(2 * job.multiplications, tasks)
    back.partial = memory.take((back.chunks * back.slots * job.taps * (job.rank + 1)
                                * job.positions + 64) * job.itemsize)
    extra = up(back.tangents + lay_out(back, NULL, &desk), 16)
    if not back.second_order:
        extra += lay_fan(job, 1, NULL, &fan)
    workers = hire(job, threads, 0, 0, extra, memory)
    if not back.second_order:
        for task in range(threads):
            lay_fan(job, 1, fan_room(back, &workers[task]), &fan)
            fill_ones(job, &fan)
    if back.direct and back.input.data != NULL:
        memset(back.input.data, 0, job.batch * back.input.batch * job.itemsize)
    for round_ in range(back.length):
        for task in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic"):
            local_block(back, task, round_, &workers[threadid()])
        if back.slots > 0:
            for task in prange(back.chunks * job.offset_groups * job.taps, nogil=True,
                               num_threads=threads, schedule="static"):
                add_shares(back, task, round_, &workers[threadid()])


cdef inline bint storage_is_native(const Back* back) noexcept:
    """Whether the image and its gradient, whichever are there, lie in reals."""
    return (back.job.input if back.job.input.data != NULL else back.input).storage == PYD_NATIVE


def local_conv_backward(geometry, grad_output, input, offset, kernel, grads):
    """Write the gradients that `grads` (input, offset, kernel) has arrays for."""
    cdef Back back
    if all(gradient is None for gradient in grads):
        return
    memset(&back, 0, sizeof(back))
    back.job = make_local(geometry, input, offset, kernel)
    open_gradients(&back, geometry, grad_output, grads)
    run_local_backward(&back, Memory())


def local_conv_double_backward(geometry, grad_grads, grad_output, input, offset, kernel, grads):
    """Write the gradients of <grad_grads, backward> that `grads` has arrays for."""
    cdef Back back
    cdef Job* job = &back.job
    u, v, kappa = grad_grads
    to_output, to_input, to_offset, to_kernel = grads
    if to_output is not None:  # the derivative along them of the forward pass
        local_conv_jvp(geometry, input, offset, kernel, grad_grads, None, to_output)
    if to_input is None and to_offset is None and to_kernel is None:
        return
    memset(&back, 0, sizeof(back))
    back.job = make_local(geometry, input, offset, kernel)
    open_gradients(&back, geometry, grad_output, (to_input, to_offset, to_kernel))
    back.second_order = True
    back.second.offset = take(v, job.offset_groups * job.taps * job.rank, job.positions,
                              job.channels_last)
    back.second.mask = take(kappa, job.offset_groups * job.taps, job.positions, job.channels_last)
    back.u = take(u, job.channels, job.pixels, job.channels_last)
    run_local_backward(&back, Memory())
