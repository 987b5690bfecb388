# Reverse mode, first and second order, over the blocks of _blocks.pxi.

cdef void first_order(const Back* back, const Share* share, Worker* w, Desk* desk,
                      const char* x, char* grad, int64_t local, int64_t chunk, int64_t image,
                      int64_t tap, int64_t first, int64_t count) noexcept nogil:
    """One tap of one offset group: column, and gradients of input, offset and mask."""
    cdef const Job* job = &back.job
    cdef int corners = job.field.corners
    cdef int64_t stride = job.stride, channels = share.channels
    cdef bint points = back.offset.data != NULL or back.mask.data != NULL
    cdef const void* mask = plan_tap(job, w, image, first, count, share.group, tap, points)
    cdef char* column = at(w.columns, local, job.itemsize)
    cdef char* a = at(desk.a, local, job.itemsize)
    x = at(x, local, job.itemsize)
    grad = at(grad, local, job.itemsize)
    if points and back.input.data != NULL and not w.plan.differs:
        job.k.sweep(corners, &w.plan, mask, a, back.row, x, channels, count, w.zeros, w.trash,
                    column, back.row, grad, desk.dots)
    else:
        if back.want_weight:
            job.k.blend(corners, stride, w.plan.read, w.plan.weight, mask, x, channels, count,
                        w.zeros, 0, column, back.row)
        if points:
            job.k.dots(corners, stride, w.plan.reach, a, back.row, x, channels, count, w.zeros,
                       desk.dots)
        if back.input.data != NULL:
            job.k.scatter(corners, stride, w.plan.read, w.plan.weight, mask, a, back.row,
                          channels, count, grad, w.trash)
    leave_offset_and_mask(back, share, mask, w, desk, chunk, image, tap, first, count)


cdef void back_tile(const Back* back, const Block* block, Worker* w, Desk* desk, const char* x,
                    const char* u, char* grad, const char* packed, const char* packed_omega,
                    char* grad_weight, int64_t chunk, int64_t image, int64_t first,
                    int64_t end) noexcept nogil:
    cdef const Job* job = &back.job
    cdef int64_t count = least(job.tile, end - first), tap, s
    cdef bint carried = (back.input.data != NULL or back.offset.data != NULL
                         or back.mask.data != NULL)
    cdef const Share* share
    enter_tile(job, w, first, count)
    load_outputs(back, block, image, first, count, desk.y)
    for tap in range(job.taps):
        if carried:
            carry_back(back, block, packed, tap, count, desk.y, desk.a)
            if packed_omega != NULL:
                carry_back(back, block, packed_omega, tap, count, desk.y, desk.b)
        for s in range(block.share, block.share + block.shares):
            share = &back.share[s]
            if back.second_order:
                second_order(back, share, w, desk, x, u, grad, share.channel - block.channel,
                             chunk, image, tap, first, count)
            else:
                first_order(back, share, w, desk, x, grad, share.channel - block.channel, chunk,
                            image, tap, first, count)
        if back.want_weight:
            weight_product(back, block, grad_weight, tap, count, desk.y, w.columns)


cdef void back_block(const Back* back, int64_t task, int64_t round_, Worker* w) noexcept nogil:
    """One block of channels of one image, or of a part of it; every round has one image of each
    chunk."""
    cdef const Job* job = &back.job
    cdef int64_t index = task % back.blocks, lane = task // back.blocks
    cdef int64_t chunk = lane // back.parts, image = chunk * back.length + round_
    cdef int64_t first = lane % back.parts * back.part + back.start
    cdef int64_t end = least(job.positions, first + least(back.part, back.window))
    cdef const Block* block = &back.block[index]
    cdef char* packed = packed_of(back, back.packed, chunk, index)
    cdef char* packed_omega = NULL
    cdef char* grad_weight = NULL
    cdef Desk desk
    cdef pyd_matrix m
    cdef char* x
    cdef char* u = NULL
    cdef char* grad
    if image >= least(job.batch, (chunk + 1) * back.length):
        return
    lay_out(back, at(w.extra, back.tangents, job.itemsize), &desk)
    if back.want_weight:
        grad_weight = grad_weight_of(back, lane, index)
    if back.omega.data != NULL:
        packed_omega = packed_of(back, back.packed_omega, chunk, index)
    if back.per_sample:
        pack_block(back, &back.weight, packed, index, image)
        if packed_omega != NULL:
            pack_block(back, &back.omega, packed_omega, index, image)
        if back.want_weight and back.start == 0:
            memset(grad_weight, 0, back.grad_weights * job.itemsize)
    x = bring_block(back, &job.input, block, image, desk.x)
    if back.u.data != NULL:
        u = bring_block(back, &back.u, block, image, desk.u)
    grad = desk.grad
    if back.input.data != NULL:
        m = across(&back.input, image, block.channel, 0)
        if back.parts > 1:
            grad = part_grad_of(back, task)
        if back.direct:
            grad = m.data
        else:
            begin_gradient(back, block, &m, grad)
    while first < end:
        back_tile(back, block, w, &desk, x, u, grad, packed, packed_omega, grad_weight, chunk,
                  image, first, end)
        first += job.tile
    if back.input.data != NULL and not back.direct and back.parts == 1:
        job.k.store(grad, back.pixel, job.pixels, block.channels, NULL, &m)
    if back.per_sample and back.want_weight:
        store_grad_weight(back, &back.grad_weight_out, chunk, index, image)


cdef void finish_weight(const Back* back, int64_t block) noexcept nogil:
    """Add the chunks, or the parts, in order, and write the gradient of the weight."""
    cdef int64_t chunk
    for chunk in range(1, back.chunks * back.parts):
        back.job.k.add(grad_weight_of(back, chunk, block), NULL, back.grad_weights,
                       grad_weight_of(back, 0, block))
    store_grad_weight(back, &back.grad_weight_out, 0, block, 0)


cdef object run_backward(Back* back, weight, omega, grad_weight, Memory memory):
    """Everything but the bias, for `back` with its job, arrays and flags set."""
    cdef Job* job = &back.job
    cdef Desk desk
    cdef int64_t task, tasks, round_, sets
    cdef int threads
    cdef Worker* workers
    cdef int64_t width = job.k.panel
    if job.batch == 0:
        if grad_weight is not None:
            grad_weight[...] = 0
        return
    back.per_sample = weight.ndim == job.rank + 3
    back.copies = 2 if back.u.data == NULL else 3
    if by_planes(job, few_back(back), back.copies * NARROWEST // job.itemsize):
        few_backward(back, weight, grad_weight, omega, memory)
        return
    back.weight = take(weight, job.out_channels * job.in_group, job.taps, False)
    back.grad_weight_out = take(grad_weight, job.out_channels * job.in_group, job.taps, False)
    back.want_weight = grad_weight is not None
    # Few blocks of a lone image leave threads without work; where its tiles part is fixed.
    back.parts = 1
    if (job.batch == 1 and job.channels * job.itemsize <= 2 * BLOCK_BYTES
            and not back.per_sample and job.positions >= 2 * MAX_TILE
            and copies_fit(job, back.copies * job.channels)
            and 2 * job.taps * (job.rank + 1) * job.positions * job.itemsize <= job.workspace):
        back.parts = 2
    back.direct = in_place(job, &job.input) and back.parts == 1
    plan_blocks(back, memory)
    set_tile(job, 2 * back.row + back.rows)
    back.part = up((job.positions + back.parts - 1) // back.parts, 12)
    set_steps(job, job.channels if back.direct else back.pixel)
    back.chunks = most(1, least(job.batch, CHUNKS // back.blocks))
    back.length = (job.batch + back.chunks - 1) // back.chunks
    back.chunks = (job.batch + back.length - 1) // back.length
    back.window = window_of(back)
    if waits_in_half(back):
        few_backward(back, weight, grad_weight, omega, memory)
        return
    tasks = back.chunks * back.parts * back.blocks
    threads = threads_for(2 * job.multiplications, tasks)
    sets = back.chunks if back.per_sample else 1
    if job.in_group == 1:
        back.block_weights = job.taps * job.out_group * back.row
        back.grad_weights = back.block_weights
    else:
        back.block_weights = job.taps * job.out_group * up(back.row, width) * back.most_groups
        back.grad_weights = job.taps * job.out_group * back.row * back.most_groups
    back.packed = memory.take((sets * back.blocks * back.block_weights + 64) * job.itemsize, True)
    if back.omega.data != NULL:
        back.packed_omega = memory.take(
            (sets * back.blocks * back.block_weights + 64) * job.itemsize, True)
    if back.want_weight:
        back.grad_weight = memory.take((tasks * back.grad_weights + 64) * job.itemsize, True)
    if back.parts > 1 and back.input.data != NULL:
        back.part_grad = memory.take((tasks * job.pixels * back.pixel + 64) * job.itemsize)
    back.partial = memory.take((back.chunks * back.slots * job.taps * (job.rank + 1)
                                * back.window + 64) * job.itemsize)
    back.tangents = tangent_reals(job)
    workers = hire(job, threads, back.row, 0, back.tangents + lay_out(back, NULL, &desk), memory)
    if not back.per_sample:
        for task in prange(back.blocks, nogil=True, num_threads=threads, schedule="static"):
            pack_block(back, &back.weight, packed_of(back, back.packed, 0, task), task, 0)
        if back.omega.data != NULL:
            for task in prange(back.blocks, nogil=True, num_threads=threads, schedule="static"):
                pack_block(back, &back.omega, packed_of(back, back.packed_omega, 0, task), task, 0)
    if back.direct and back.input.data != NULL:
        memset(back.input.data, 0, job.batch * back.input.batch * job.itemsize)
    for round_ in range(back.length):
        back.start = 0
        while back.start < job.positions:
            for task in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic"):
                back_block(back, task, round_, &workers[threadid()])
            if back.slots > 0:
                for task in prange(back.chunks * job.offset_groups * job.taps, nogil=True,
                                   num_threads=threads, schedule="static"):
                    add_shares(back, task, round_, &workers[threadid()])
            back.start += back.window
    if back.part_grad != NULL:
        tasks = back.blocks * ((job.pixels + PIXELS_TO_ADD - 1) // PIXELS_TO_ADD)
        for task in prange(tasks, nogil=True, num_threads=threads, schedule="static"):
            add_parts(back, task)
    if back.want_weight and not back.per_sample:
        for task in prange(back.blocks, nogil=True, num_threads=threads, schedule="static"):
            finish_weight(back, task)


cdef object open_gradients(Back* back, grad_output, grad_input):
    cdef Job* job = &back.job
    back.grad_output = take(grad_output, job.out_channels, job.positions, job.channels_last)
    back.input = take(grad_input, job.channels, job.pixels, job.channels_last)


def deform_conv_backward(geometry, grad_output, input, offset, weight, mask, grads, deterministic):
    """Write the gradients that `grads` (input, offset, weight, bias, mask) has arrays for.

    Always deterministic here.
    """
    cdef Back back
    cdef Memory memory = Memory()
    grad_input, grad_offset, grad_weight, grad_bias, grad_mask = grads
    memset(&back, 0, sizeof(back))
    back.job = make_job(geometry, input, offset, mask)
    open_gradients(&back, grad_output, grad_input)
    back.offset = take_samples(&back.job, grad_offset, back.job.rank)
    back.mask = take_samples(&back.job, grad_mask, 1)
    if not (grad_input is None and grad_offset is None and grad_weight is None
            and grad_mask is None):
        run_backward(&back, weight, None, grad_weight, memory)
    if grad_bias is not None:
        bias_gradient(&back.job, &back.grad_output, grad_bias, memory)


def deform_conv_double_backward(geometry, grad_grads, grad_output, input, offset, weight, mask,
                                results):
    """Write the gradients of <grad_grads, backward> that `results` has arrays for."""
    cdef Back back
    cdef Memory memory = Memory()
    u, v, omega, beta, mu = grad_grads
    to_output, to_input, to_offset, to_weight, to_mask = results
    if to_output is not None:  # the derivative along them of the forward pass
        deform_conv_jvp(geometry, input, offset, weight, None, mask, grad_grads, None, to_output)
    if to_input is None and to_offset is None and to_weight is None and to_mask is None:
        return
    memset(&back, 0, sizeof(back))
    back.job = make_job(geometry, input, offset, mask)
    cdef Job* job = &back.job
    open_gradients(&back, grad_output, to_input)
    back.offset = take_samples(job, to_offset, job.rank)
    back.mask = take_samples(job, to_mask, 1)
    back.second_order = True
    back.second.offset = take_samples(job, v, job.rank)
    back.second.mask = take_samples(job, mu, 1)
    back.u = take(u, job.channels, job.pixels, job.channels_last)
    back.omega = take(omega, job.out_channels * job.in_group, job.taps, False)
    run_backward(&back, weight, omega, to_weight, memory)
