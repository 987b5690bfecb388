# A fan: where all taps of one offset group read, for a tile of positions. Where no product wants
# columns, the samples of a position are added up while its channels are in registers.

cdef enum:
    FAN_BYTES = 64 << 10  # of plans: they are read once, right after they are written
    FAN_MOST = 256 << 10
    FAN_POSITIONS = 64  # at least, however many taps


cdef struct Fan:  # of job.fan taps, one behind the other
    char* offset  # [tap][rank][stride]
    char* scale  # [tap][stride]: the kernel
    char* dots  # [tap][corner][stride]
    char* sums  # [tap][rank][stride]
    int64_t corner, axis  # elements from one tap's corners and stencils to the next one's
    pyd_plan plan  # of the first


cdef int64_t lay_fan(const Job* job, bint back, char* start, Fan* fan) noexcept nogil:
    """Point a fan's buffers from `start` on; returns the size of all in reals.

    Only the way back needs more of a plan than its indices and weights.
    """
    cdef int64_t kept = job.fan if back else 1, used = 0, real = job.itemsize
    cdef int64_t stencil = job.rank * job.field.length * job.stride
    cdef int64_t corners = job.field.corners * job.stride
    cdef int64_t* sizes = [
        job.fan * job.rank * job.stride * real, job.fan * job.stride * real,
        kept * corners * real, kept * job.rank * job.stride * real, kept * stencil * real,
        kept * stencil * real, job.fan * corners * real, job.fan * corners * 8,
        kept * corners * 8]
    cdef char* places[9]
    cdef int i
    for i in range(9):
        places[i] = start + used
        used += up(sizes[i] + 64, 64)
    fan.offset, fan.scale, fan.dots, fan.sums = places[0], places[1], places[2], places[3]
    fan.plan.value, fan.plan.slope, fan.plan.weight = places[4], places[5], places[6]
    fan.plan.read, fan.plan.reach = <int64_t*> places[7], <int64_t*> places[8]
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


cdef void plan_fan(const Job* job, const Worker* w, Fan* fan, int64_t image, int64_t first,
                   int64_t count, int64_t group, int64_t tap, int64_t taps, bint back,
                   int full) noexcept nogil:
    """Where these taps of one offset group read."""
    cdef pyd_plan plan
    cdef pyd_matrix m
    cdef int64_t t
    if job.offset.data != NULL:
        m = along(&job.offset, image, (group * job.taps + tap) * job.rank, first)
        job.k.load(&m, taps * job.rank, count, fan.offset, job.stride)
    for t in range(taps):
        plan = plan_of(job, fan, t, back)
        plan_at(job, w.base, at(fan.offset, t * job.rank * job.stride, job.itemsize), tap + t,
                count, full, &plan)


cdef void load_scales(const Job* job, Fan* fan, int64_t image, int64_t first, int64_t count,
                      int64_t group, int64_t tap, int64_t taps) noexcept nogil:
    """The kernel at these taps; without one, the ones that were there from the start."""
    cdef pyd_matrix m
    if job.mask.data != NULL:
        m = along(&job.mask, image, group * job.taps + tap, first)
        job.k.load(&m, taps, count, fan.scale, job.stride)


cdef void fill_ones(const Job* job, Fan* fan) noexcept:
    """Scales of 1, where there is no kernel to load."""
    cdef int64_t i
    for i in range(0 if job.mask.data != NULL else job.fan * job.stride):
        if job.itemsize == 8:
            (<double*> fan.scale)[i] = 1
        else:
            (<float*> fan.scale)[i] = 1
