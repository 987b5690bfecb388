# A fan: where all taps of one offset group read, for a tile of positions. Where no product wants
# columns, the samples of a position are added up while its channels are in registers.

cdef enum:
    FAN_BYTES = 64 << 10  # of plans: they are read once, right after they are written
    FAN_MOST = 256 << 10
    FAN_POSITIONS = 64  # at least, however many taps
    FAN_LOADED = 128 << 10  # of offsets and kernels: whole rows of memory are quicker to turn


cdef struct Fan:
    char* offset  # [row][stride]: offsets of some groups at all taps, as Lie says
    char* scale  # [row][stride]: the kernel
    char* offset_sums  # and their gradients
    char* scale_sums
    char* dots  # [tap][corner][stride], and so in the plan: one group's
    int64_t corner, axis  # elements from one tap's corners and stencils to the next one's
    pyd_plan plan  # of the first tap


cdef int64_t lay_fan(const Job* job, bint back, char* start, Fan* fan) noexcept nogil:
    """Point a fan's buffers from `start` on; returns the size of all in reals.

    Only the way back needs more of a plan than its indices and weights.
    """
    cdef int64_t kept = job.fan if back else 1, used = 0, real = job.itemsize
    cdef int64_t stencil = job.rank * job.field.length * job.stride
    cdef int64_t corners = job.field.corners * job.stride
    cdef int64_t samples = 2 * job.fan_groups * job.fan * job.stride * real  # what lies between
    cdef int64_t offsets = samples * (job.rank + 1)
    cdef int64_t* sizes = [
        offsets, samples, offsets if back else 0, samples if back else 0,
        kept * corners * real, kept * stencil * real, kept * stencil * real,
        job.fan * corners * real, job.fan * corners * 8, kept * corners * 8]
    cdef char* places[10]
    cdef int i
    for i in range(10):
        places[i] = start + used
        used += up(sizes[i] + 64, 64)
    fan.offset, fan.scale, fan.offset_sums, fan.scale_sums = (
        places[0], places[1], places[2], places[3])
    fan.dots, fan.plan.value, fan.plan.slope = places[4], places[5], places[6]
    fan.plan.weight = places[7]
    fan.plan.read, fan.plan.reach = <int64_t*> places[8], <int64_t*> places[9]
    fan.plan.stride = job.stride
    fan.plan.differs = fan.plan.adjacent = 0
    fan.corner = corners
    fan.axis = stencil if back else 0
    return used // real


cdef inline pyd_plan plan_of(const Job* job, const Fan* fan, int64_t tap, bint back) noexcept nogil:
    """The plan of one tap of the fan, counted from the fan's first."""
    cdef pyd_plan plan = fan.plan
    plan.value = at(plan.value, tap * fan.axis, job.itemsize)
    plan.slope = at(plan.slope, tap * fan.axis, job.itemsize)
    plan.weight = at(plan.weight, tap * fan.corner, job.itemsize)
    plan.read += tap * fan.corner
    if back:
        plan.reach += tap * fan.corner
    return plan


cdef void set_fan(Job* job, bint back) noexcept:
    """Tiles small enough for the plans of all taps to stay close, and how many taps that are."""
    cdef int64_t corners = job.field.corners
    cdef int64_t bytes = corners * (8 + job.itemsize) + (2 * job.rank + 1) * job.itemsize
    cdef int64_t tile
    if back:
        bytes += corners * (8 + job.itemsize) + 2 * job.rank * job.field.length * job.itemsize
    tile = least(MAX_TILE, most(FAN_POSITIONS, FAN_BYTES // (job.taps * bytes)))
    job.tiles = most(1, (job.positions + tile - 1) // tile)
    job.tile = most(16, up((job.positions + job.tiles - 1) // job.tiles, 16))
    job.tiles = most(1, (job.positions + job.tile - 1) // job.tile)
    job.stride = job.tile
    job.fan = least(job.taps, most(1, FAN_MOST // (job.tile * bytes)))
    job.fan_groups = 1
    if job.fan == job.taps:
        bytes = job.taps * (job.rank + 1) * job.stride * job.itemsize
        job.fan_groups = least(job.offset_groups, most(1, FAN_LOADED // bytes))


cdef struct Lie:  # how offsets and kernel of some groups lie in a fan
    Rows offset, scale
    int64_t joint  # rows of both, where one load brings both; or 0


cdef Lie lie_of(const Job* job, const Samples* offset, const Samples* scale,
                bint exact) noexcept nogil:
    """For arrays that are read, or (exact) written."""
    cdef Lie lie
    lie.offset = rows_of(offset, job.fan_groups, job.fan, job.rank, exact)
    lie.scale = rows_of(scale, job.fan_groups, job.fan, 1, exact)
    lie.joint = 0
    if job.fan == job.taps:
        lie.joint = join(offset, scale, &lie.offset, &lie.scale, job.fan_groups, job.taps,
                         job.rank, exact)
    return lie


cdef inline int64_t joint_rows(const Lie* lie, int64_t missing) noexcept nogil:
    return lie.joint - missing * lie.offset.group


cdef void load_fan(const Job* job, Fan* fan, const Lie* lie, int64_t image, int64_t first,
                   int64_t count, int64_t group, int64_t groups, int64_t tap,
                   int64_t taps) noexcept nogil:
    """Offsets and kernel of some offset groups at these taps: all taps where groups are many.

    Without a kernel, the scales are the ones that were there from the start.
    """
    cdef pyd_matrix m
    if lie.joint:
        m = sample_rows(&job.offset, image, group, 0, first)
        m.data -= lie.offset.first * lie.offset.unit * job.offset.itemsize
        m.row = lie.offset.unit
        job.k.load(&m, joint_rows(lie, job.fan_groups - groups), count, fan.offset, job.stride)
        return
    if job.offset.data != NULL:
        load_rows(job, &job.offset, &lie.offset, image, group, groups, tap, taps, job.rank, first,
                  count, fan.offset)
    if job.mask.data != NULL:
        load_rows(job, &job.mask, &lie.scale, image, group, groups, tap, taps, 1, first, count,
                  fan.scale)


cdef void plan_fan(const Job* job, const Worker* w, Fan* fan, const Lie* lie, int64_t slot,
                   int64_t count, int64_t tap, int64_t taps, bint back, int full) noexcept nogil:
    """Where these taps of one loaded offset group read."""
    cdef pyd_plan plan
    cdef int64_t t
    for t in range(taps):
        plan = plan_of(job, fan, t, back)
        plan_rows(job, w.base,
                  at(fan.offset, row_of(&lie.offset, slot, t) * job.stride, job.itemsize),
                  lie.offset.axis * job.stride, tap + t, count, full, &plan)


cdef inline char* scale_of(const Job* job, const Fan* fan, const Lie* lie,
                           int64_t slot) noexcept nogil:
    """The scales of a loaded group's taps, row by row."""
    return at(fan.offset if lie.joint else fan.scale, row_of(&lie.scale, slot, 0) * job.stride,
              job.itemsize)


cdef void fill_ones(const Job* job, Fan* fan) noexcept:
    """Scales of 1, where there is no kernel to load."""
    cdef int64_t i
    for i in range(0 if job.mask.data != NULL else job.fan_groups * job.fan * job.stride):
        if job.itemsize == 8:
            (<double*> fan.scale)[i] = 1
        else:
            (<float*> fan.scale)[i] = 1
