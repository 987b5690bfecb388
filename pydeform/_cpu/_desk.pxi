# What one thread works on in reverse mode, and what it does there for the double backward.

cdef struct Desk:  # in Worker.extra, behind the tangents
    char* y  # [tile][out channels of the block]
    char* a  # [tile][row]: grad_output carried back by the weight
    char* b  # [tile][row]: and by the weight's cotangent
    char* dots  # [corners][stride]: of a with the input's corners
    char* b_dots
    char* u_dots
    char* sums  # [stride]
    char* total  # [stride]
    char* x  # [pixels][pixel]: this block's channels of the image
    char* u
    char* grad


cdef int64_t lay_out(const Back* back, char* start, Desk* desk) noexcept nogil:
    """Point the desk's buffers from `start` on; returns the size of all in reals."""
    cdef const Job* job = &back.job
    cdef int64_t used = 0, corners = job.field.corners * job.stride
    cdef int64_t image = 0 if back.direct else job.pixels * back.pixel + 64
    cdef int64_t* sizes = [
        job.stride * back.rows, job.stride * back.row, job.stride * back.row, corners, corners,
        corners, job.stride, job.stride, image, image if back.u.data != NULL else 0, image]
    cdef char* places[11]
    cdef int i
    for i in range(11):
        places[i] = at(start, used, job.itemsize)
        used += up(sizes[i] + 64, 16)
    desk.y, desk.a, desk.b = places[0], places[1], places[2]
    desk.dots, desk.b_dots, desk.u_dots = places[3], places[4], places[5]
    desk.sums, desk.total = places[6], places[7]
    desk.x, desk.u, desk.grad = places[8], places[9], places[10]
    return used


cdef char* bring_block(const Back* back, const Array* source, const Block* block, int64_t image,
                       char* room) noexcept nogil:
    """This block's channels of an image, side by side: in place, or copied to `room`."""
    cdef pyd_matrix m = across(source, image, block.channel, 0)
    if back.direct:
        return m.data
    back.job.k.load(&m, back.job.pixels, block.channels, room, back.pixel)
    return room


cdef void leave_offset_and_mask(const Back* back, const Share* share, const void* mask,
                                Worker* w, Desk* desk, int64_t chunk, int64_t image, int64_t tap,
                                int64_t first, int64_t count) noexcept nogil:
    """mbar = A s and pbar_d = m A D_d from the dots."""
    cdef const Job* job = &back.job
    cdef int a
    if back.mask.data != NULL:
        job.k.contract(&job.field, &w.plan, 0, desk.dots, NULL, count, 0, desk.sums)
        leave(back, share, &back.mask, 0, 1, chunk, image, tap, first, count, desk.sums)
    if back.offset.data != NULL:
        for a in range(job.rank):
            job.k.contract(&job.field, &w.plan, 1 << a, desk.dots, mask, count, 0, desk.sums)
            leave(back, share, &back.offset, a, 2, chunk, image, tap, first, count, desk.sums)


cdef void second_order(const Back* back, const Share* share, Worker* w, Desk* desk,
                       const char* x, const char* u, char* grad, int64_t local, int64_t chunk,
                       int64_t image, int64_t tap, int64_t first, int64_t count) noexcept nogil:
    """The same for the double backward: columns mu s + m T, and what they lead to."""
    cdef const Job* job = &back.job
    cdef int corners = job.field.corners
    cdef int64_t stride = job.stride, channels = share.channels
    cdef bint has_b = back.omega.data != NULL, has_v = back.second.offset.data != NULL
    cdef bint has_mu = back.second.mask.data != NULL, has_u = back.u.data != NULL
    cdef const void* mask = plan_tap(job, w, image, first, count, share.group, tap, 1)
    cdef char* a = at(desk.a, local, job.itemsize)
    cdef char* b = at(desk.b, local, job.itemsize)
    x = at(x, local, job.itemsize)
    grad = at(grad, local, job.itemsize)
    if has_u:
        u = at(u, local, job.itemsize)
    load_tangents(job, &back.second, w, image, first, count, share.group, tap)
    if back.want_weight:
        tangent_columns(job, &back.second, w, mask, x, u if has_u else NULL, channels, count, 0,
                        at(w.columns, local, job.itemsize), back.row)
    elif has_v:
        slope_weights(job, w, count)
    if back.input.data != NULL:
        if has_b:
            job.k.scatter(corners, stride, w.plan.read, w.plan.weight, mask, b, back.row,
                          channels, count, grad, w.trash)
        if has_mu:
            job.k.scatter(corners, stride, w.plan.read, w.plan.weight, mu_of(job, w), a,
                          back.row, channels, count, grad, w.trash)
        if has_v:  # the weights of sum_d v_d D_d are there
            job.k.scatter(corners, stride, extra_read(job, w), extra_weights(job, w), mask, a,
                          back.row, channels, count, grad, w.trash)
    if back.offset.data == NULL and back.mask.data == NULL:
        return
    if has_mu or has_v:
        job.k.dots(corners, stride, w.plan.reach, a, back.row, x, channels, count, w.zeros,
                   desk.dots)
    if has_b:
        job.k.dots(corners, stride, w.plan.reach, b, back.row, x, channels, count, w.zeros,
                   desk.b_dots)
    if has_u:
        job.k.dots(corners, stride, w.plan.reach, a, back.row, u, channels, count, w.zeros,
                   desk.u_dots)
    leave_second(back, share, mask, w, desk, chunk, image, tap, first, count)


cdef void leave_second(const Back* back, const Share* share, const void* mask, Worker* w,
                       const Desk* desk, int64_t chunk, int64_t image, int64_t tap, int64_t first,
                       int64_t count) noexcept nogil:
    """What the dots lead to: the gradients of offset and mask."""
    cdef const Job* job = &back.job
    cdef int e, d
    cdef bint has_b = back.omega.data != NULL, has_v = back.second.offset.data != NULL
    cdef bint has_mu = back.second.mask.data != NULL, has_u = back.u.data != NULL
    if back.mask.data != NULL:
        memset(desk.sums, 0, job.stride * job.itemsize)
        if has_b:
            job.k.contract(&job.field, &w.plan, 0, desk.b_dots, NULL, count, 1, desk.sums)
        if has_u:
            job.k.contract(&job.field, &w.plan, 0, desk.u_dots, NULL, count, 1, desk.sums)
        if has_v:
            for d in range(job.rank):
                job.k.contract(&job.field, &w.plan, 1 << d, desk.dots, v_of(job, w, d), count, 1,
                               desk.sums)
        leave(back, share, &back.mask, 0, 1, chunk, image, tap, first, count, desk.sums)
    if back.offset.data == NULL:
        return
    for e in range(job.rank):
        memset(desk.sums, 0, job.stride * job.itemsize)
        memset(desk.total, 0, job.stride * job.itemsize)
        if has_b:
            job.k.contract(&job.field, &w.plan, 1 << e, desk.b_dots, NULL, count, 1, desk.sums)
        if has_u:
            job.k.contract(&job.field, &w.plan, 1 << e, desk.u_dots, NULL, count, 1, desk.sums)
        if has_v:
            for d in range(job.rank):
                if d != e:
                    job.k.contract(&job.field, &w.plan, 1 << e | 1 << d, desk.dots,
                                   v_of(job, w, d), count, 1, desk.sums)
        job.k.add(desk.sums, mask, count, desk.total)
        if has_mu:
            job.k.contract(&job.field, &w.plan, 1 << e, desk.dots, mu_of(job, w), count, 1,
                           desk.total)
        leave(back, share, &back.offset, e, 2, chunk, image, tap, first, count, desk.total)
