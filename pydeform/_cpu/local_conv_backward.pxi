# The way back of weighted sums, over the blocks of _blocks.pxi: what deform_conv_backward.pxi does
# with columns, straight from the gradient of the output.


cdef struct Lies:  # how samples lie in a fan, and how their gradients do
    Lie read, written


cdef inline char* scale_sums_of(const Fan* fan, const Lie* lie) noexcept nogil:
    return fan.offset_sums if lie.joint else fan.scale_sums


cdef void sum_points(const Back* back, const Fan* fan, const Lies* lies, int64_t slot,
                     int64_t taps, int64_t count) noexcept nogil:
    """mbar = A s and pbar_d = m A D_d from the dots of one loaded group."""
    cdef const Job* job = &back.job
    cdef const Lie* to = &lies.written
    cdef int64_t t
    cdef pyd_plan plan
    cdef const char* dots
    cdef const char* scales = scale_of(job, fan, &lies.read, slot)
    cdef char* sum = NULL
    cdef char* sums = NULL
    for t in range(taps):
        plan = plan_of(job, fan, t, 1)
        dots = at(fan.dots, t * fan.corner, job.itemsize)
        if back.mask.data != NULL:
            sum = at(scale_sums_of(fan, to), row_of(&to.scale, slot, t) * job.stride, job.itemsize)
        if job.corners == 1:
            memcpy(sum, dots, count * job.itemsize)
            continue
        if back.offset.data != NULL:
            sums = at(fan.offset_sums, row_of(&to.offset, slot, t) * job.stride, job.itemsize)
        job.k.contract_all(&job.field, &plan, dots, at(scales, t * job.stride, job.itemsize),
                           count, sum, sums, to.offset.axis * job.stride)


cdef void leave_partial(const Back* back, const Share* share, const Samples* gradient,
                        const Rows* lie, int64_t chunk, int64_t image, int64_t tap, int64_t taps,
                        int64_t first, int64_t count, const char* rows) noexcept nogil:
    """Put one group's rows where its partial sums are."""
    cdef const Job* job = &back.job
    cdef bint offset = gradient == &back.offset
    cdef int64_t t, part
    if gradient.data == NULL:
        return
    for t in range(taps):
        for part in range(job.rank if offset else 1):
            leave(back, share, gradient, part, 2 if offset else 1, chunk, image, tap + t, first,
                  count, at(rows, (row_of(lie, 0, t) + part * lie.axis) * job.stride,
                            job.itemsize))


cdef void leave_fan(const Back* back, const Share* share, const Fan* fan, const Lie* lie,
                    int64_t chunk, int64_t image, int64_t groups, int64_t tap, int64_t taps,
                    int64_t first, int64_t count) noexcept nogil:
    """Put the sums of some groups where they belong: the gradients, or partial sums."""
    cdef const Job* job = &back.job
    cdef pyd_matrix m
    if share.slot >= 0:
        leave_partial(back, share, &back.mask, &lie.scale, chunk, image, tap, taps, first, count,
                      scale_sums_of(fan, lie))
        leave_partial(back, share, &back.offset, &lie.offset, chunk, image, tap, taps, first,
                      count, fan.offset_sums)
        return
    if lie.joint:
        m = sample_rows(&back.offset, image, share.group, 0, first)
        m.data -= lie.offset.first * lie.offset.unit * back.offset.itemsize
        m.row = lie.offset.unit
        job.k.store(fan.offset_sums, job.stride, joint_rows(lie, job.fan_groups - groups), count,
                    NULL, &m)
        return
    if back.mask.data != NULL:
        store_rows(job, &back.mask, &lie.scale, image, share.group, groups, tap, taps, 1, first,
                   count, fan.scale_sums)
    if back.offset.data != NULL:
        store_rows(job, &back.offset, &lie.offset, image, share.group, groups, tap, taps, job.rank,
                   first, count, fan.offset_sums)


cdef void local_back_tile(const Back* back, const Block* block, Worker* w, Fan* fan,
                          const Lies* lies, Desk* desk, const char* x, char* grad, int64_t chunk,
                          int64_t image, int64_t first) noexcept nogil:
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
                load_fan(job, fan, &lies.read, image, first, count, share.group, groups, tap, taps)
            if s == block.share or job.offset.data != NULL:
                plan_fan(job, w, fan, &lies.read, slot, count, tap, taps, 1,
                         points and job.corners > 1)
            job.k.weigh_back(job.corners, taps, fan.corner, &fan.plan,
                             scale_of(job, fan, &lies.read, slot), at(y, local, job.itemsize), row,
                             at(x, local, job.itemsize) if points else NULL, share.channels, count,
                             w.zeros,
                             NULL if back.input.data == NULL else at(grad, local, job.itemsize),
                             fan.dots)
            if points:
                sum_points(back, fan, lies, slot, taps, count)
            if points and slot == groups - 1:
                leave_fan(back, share - slot, fan, &lies.written, chunk, image, groups, tap, taps,
                          first, count)
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


cdef void local_block(const Back* back, const Lies* lies, int64_t task, int64_t round_,
                      Worker* w) noexcept nogil:
    """One block of channels of one image; every round has one image of each chunk."""
    cdef const Job* job = &back.job
    cdef int64_t index = task % back.blocks, chunk = task // back.blocks, first = back.start
    cdef int64_t end = least(job.positions, first + back.window)
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
            begin_gradient(back, block, &m, grad)
    if not back.second_order:
        lay_fan(job, 1, fan_room(back, w), &fan)
        if job.corners == 1:  # a weight of 1 is never in doubt
            fan.plan.reach = fan.plan.read
    while first < end:
        if back.second_order:
            local_second_tile(back, block, w, &desk, x, u, grad, chunk, image, first)
        else:
            local_back_tile(back, block, w, &fan, lies, &desk, x, grad, chunk, image, first)
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
    cdef Lies lies
    cdef Worker* workers
    cdef int64_t task, tasks, round_, extra, narrowest
    cdef int threads
    if job.batch == 0:
        return
    if job.positions == 0:
        if back.input.data != NULL:
            memset(back.input.data, 0, job.batch * back.input.batch * back.input.itemsize)
        return
    back.copies = 2 if back.u.data == NULL else 3
    narrowest = back.copies * NARROWEST // job.itemsize
    # Without an image to read, as in splat, few channels are no reason.
    if local_by_planes(job, 0 if job.input.data == NULL else few_back(back), narrowest):
        few_backward(back, None, None, None, memory)
        return
    back.direct = in_place(job, &job.input) and not (
        read_often(job, READS_BACK) and copies_fit(job, narrowest))
    plan_blocks(back, memory)
    back.rows = 0
    if back.second_order:
        set_tile(job, 2 * back.row)
        back.tangents = tangent_reals(job)
    else:
        set_fan(job, 1)
        lies.read = lie_of(job, &job.offset, &job.mask, False)
        lies.written = lie_of(job, &back.offset, &back.mask, True)
    set_steps(job, job.channels if back.direct else back.pixel)
    back.chunks = job.batch  # nothing adds up over images
    if back.slots > 0:
        back.chunks = most(1, least(job.batch, CHUNKS // back.blocks))
    back.length = (job.batch + back.chunks - 1) // back.chunks
    back.chunks = (job.batch + back.length - 1) // back.length
    tasks = back.chunks * back.blocks
    threads = threads_for(2 * job.multiplications, tasks)
    back.window = window_of(back)
    if waits_in_half(back):
        few_backward(back, None, None, None, memory)
        return
    back.partial = memory.take((back.chunks * back.slots * job.taps * (job.rank + 1)
                                * back.window + 64) * job.itemsize)
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
        back.start = 0
        while back.start < job.positions:
            for task in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic"):
                local_block(back, &lies, task, round_, &workers[threadid()])
            if back.slots > 0:
                for task in prange(back.chunks * job.offset_groups * job.taps, nogil=True,
                                   num_threads=threads, schedule="static"):
                    add_shares(back, task, round_, &workers[threadid()])
            back.start += back.window


def local_conv_backward(geometry, grad_output, input, offset, kernel, grads):
    """Write the gradients that `grads` (input, offset, kernel) has arrays for."""
    cdef Back back
    cdef Memory memory = Memory()
    if all(gradient is None for gradient in grads):
        return
    memset(&back, 0, sizeof(back))
    grad_input, grad_offset, grad_kernel = grads
    back.job = make_local(geometry, input, offset, kernel, memory)
    open_gradients(&back, grad_output, grad_input)
    back.offset = view_samples(grad_offset, back.job.rank)
    back.mask = view_samples(grad_kernel, 1)
    run_local_backward(&back, memory)


def local_conv_double_backward(geometry, grad_grads, grad_output, input, offset, kernel, grads):
    """Write the gradients of <grad_grads, backward> that `grads` has arrays for."""
    cdef Back back
    cdef Memory memory = Memory()
    cdef Job* job = &back.job
    u, v, kappa = grad_grads
    to_output, to_input, to_offset, to_kernel = grads
    if to_output is not None:  # the derivative along them of the forward pass
        local_conv_jvp(geometry, input, offset, kernel, grad_grads, None, to_output)
    if to_input is None and to_offset is None and to_kernel is None:
        return
    memset(&back, 0, sizeof(back))
    back.job = make_local(geometry, input, offset, kernel, memory)
    open_gradients(&back, grad_output, to_input)
    back.offset = view_samples(to_offset, job.rank)
    back.mask = view_samples(to_kernel, 1)
    back.second_order = True
    back.second.offset = view_samples(v, job.rank)
    back.second.mask = view_samples(kappa, 1)
    back.u = take(u, job.channels, job.pixels, job.channels_last)
    run_local_backward(&back, memory)
