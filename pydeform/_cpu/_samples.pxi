# Offsets and factors where they lie, and where one tap reads.


cdef Samples take_samples(const Job* job, array, int64_t axes) except *:
    """One array [N, groups * taps * axes, *positions] or, channels last, [N, *positions, ...]."""
    cdef Samples s
    cdef int64_t channels = job.offset_groups * job.taps * axes, channel
    cdef Array a = take(array, channels, job.positions, job.channels_last)
    channel = a.channel
    s.data, s.storage, s.itemsize = a.data, a.storage, a.itemsize
    s.batch, s.position = a.batch, a.position
    s.axis, s.tap, s.group = channel, axes * channel, job.taps * axes * channel
    return s


cdef Samples view_samples(array, int64_t axes) except *:
    """A view [N, P, G, K], or [N, P, G, K, axes]; or None."""
    cdef Samples s
    memset(&s, 0, sizeof(s))
    if array is None:
        return s
    cdef pyd_described found = described(array)
    s.data = <char*> found.data
    s.storage = storage_of(&found)
    s.itemsize = found.itemsize
    strides = array.strides
    s.batch = <int64_t> strides[0] // s.itemsize
    s.position = <int64_t> strides[1] // s.itemsize
    s.group = <int64_t> strides[2] // s.itemsize
    s.tap = <int64_t> strides[3] // s.itemsize
    s.axis = <int64_t> strides[4] // s.itemsize if axes > 1 or array.ndim > 4 else 1
    return s


cdef inline pyd_matrix sample_rows(const Samples* s, int64_t image, int64_t group, int64_t tap,
                                   int64_t first) noexcept nogil:
    """From there on, rows are axes and columns positions."""
    cdef pyd_matrix m
    m.data = s.data + s.itemsize * (
        image * s.batch + group * s.group + tap * s.tap + first * s.position)
    m.storage = s.storage
    m.row = s.axis
    m.column = s.position
    return m


cdef int take_taps(Job* job, geometry, Memory memory) except -1:
    """What the geometry says of single taps."""
    cdef int64_t tap, each
    cdef int a
    cdef Tap* taps
    scale, start, levels = geometry.scale, geometry.start, geometry.levels
    if not scale and not levels:
        return 0
    taps = <Tap*> memory.take(job.taps * sizeof(Tap), True)
    job.tap = taps
    job.levels = bool(levels)
    job.field.scaled = bool(scale)
    if scale:
        for tap in range(job.taps):
            factors, starts = scale[tap], start[tap]
            for a in range(job.rank):
                taps[tap].scale[a] = factors[a]
                taps[tap].start[a] = starts[a]
    if levels:
        each = job.taps // len(levels)
        for tap in range(job.taps):
            level = levels[tap // each]
            taps[tap].first = level.start
            for a in range(job.rank):
                taps[tap].size[a] = level.size[a]
    return 0


cdef void plan_rows(const Job* job, const int64_t* base, const void* offset, int64_t offset_row,
                    int64_t tap, int64_t count, int full, pyd_plan* plan) noexcept nogil:
    """Where one tap reads, from the offsets [rank][offset_row] of a tile."""
    cdef int64_t shift[3]
    cdef int64_t rest = tap, pixel
    cdef const pyd_field* field = &job.field
    cdef pyd_field own
    cdef int a
    for a in range(job.rank - 1, -1, -1):
        shift[a] = rest % job.kernel[a] * job.dilation[a]
        rest = rest // job.kernel[a]
    if job.tap != NULL:
        own = job.field
        field = &own
        memcpy(own.scale, job.tap[tap].scale, sizeof(own.scale))
        memcpy(own.start, job.tap[tap].start, sizeof(own.start))
        if job.levels:
            pixel = own.step[job.rank - 1]
            own.first = job.tap[tap].first * pixel
            for a in range(job.rank - 1, -1, -1):
                own.size[a] = job.tap[tap].size[a]
                own.step[a] = pixel
                pixel *= own.size[a]
    plan.offset_row = offset_row
    job.k.plan(field, base, shift, offset if job.offset.data != NULL else NULL, count,
               full or job.axes, plan)
    if job.axes:
        job.k.corner_weights(&job.field, plan, job.axes, NULL, count, 0, plan.weight)
        job.k.corners_read(&job.field, plan, plan.weight, count, plan.read)


cdef inline bint rows_in_place(const Job* job, const Samples* s, int64_t first,
                               int64_t count) noexcept nogil:
    """Whether rows of a tile's positions can be read where they lie, in whole registers."""
    return (s.storage == PYD_NATIVE and s.itemsize == job.itemsize and s.position == 1
            and first + up(count, job.k.lanes) <= job.positions)


cdef const void* plan_tap(const Job* job, Worker* w, int64_t image, int64_t first, int64_t count,
                          int64_t group, int64_t tap, int full) noexcept nogil:
    """Where this tap of this offset group reads, into w.plan; returns its mask, or NULL."""
    cdef pyd_matrix m = sample_rows(&job.offset, image, group, tap, first)
    if job.offset.data != NULL and rows_in_place(job, &job.offset, first, count):
        plan_rows(job, w.base, m.data, m.row, tap, count, full, &w.plan)
    else:
        if job.offset.data != NULL:
            job.k.load(&m, job.rank, count, w.offset, job.stride)
        plan_rows(job, w.base, w.offset, job.stride, tap, count, full, &w.plan)
    if job.mask.data == NULL:
        return NULL
    m = sample_rows(&job.mask, image, group, tap, first)
    if rows_in_place(job, &job.mask, first, count):
        return m.data
    job.k.load(&m, 1, count, w.mask, job.stride)
    return w.mask


cdef void store_row(const Job* job, const Samples* s, int64_t axis, int64_t image, int64_t group,
                    int64_t tap, int64_t first, int64_t count, const void* values) noexcept nogil:
    """Write one axis of one tap."""
    cdef pyd_matrix m = sample_rows(s, image, group, tap, first)
    m.data += axis * s.axis * s.itemsize
    m.row = 1
    job.k.store(values, job.stride, 1, count, NULL, &m)


# Samples of all taps of some groups, as rows of a buffer. Where they lie close in memory they keep
# the order in which they lie there, and what lies between comes along.

cdef struct Rows:
    int64_t first  # row of the first group's first tap's first axis
    int64_t low  # the lowest row
    int64_t group, tap, axis  # rows from one to the next
    int64_t unit  # elements from row to row of memory
    int whole  # what one load brings: a tap (0), a group (1), all groups (2)


cdef inline int64_t breadth(const Rows* r, int64_t groups, int64_t taps,
                            int64_t axes) noexcept nogil:
    """Rows from the lowest to the highest."""
    return 1 + (groups - 1) * r.group + (taps - 1) * r.tap + (axes - 1) * (
        r.axis if r.axis > 0 else -r.axis)


cdef int64_t unit_of(const Samples* s, int64_t groups, int64_t taps, int64_t axes) noexcept nogil:
    """The smallest distance along these axes, which must divide the others; 0 if it does not."""
    cdef int64_t[3] stride = [s.axis, s.tap, s.group]
    cdef int64_t[3] extent = [axes, taps, groups]
    cdef int64_t unit = 0, one
    cdef int i
    for i in range(3):
        one = stride[i] if stride[i] > 0 else -stride[i]
        if extent[i] > 1 and one > 0 and (unit == 0 or one < unit):
            unit = one
    unit = most(1, unit)
    for i in range(3):
        if extent[i] > 1 and (stride[i] % unit or i > 0 and stride[i] < 0):
            return 0
    return unit


cdef Rows rows_of(const Samples* s, int64_t groups, int64_t taps, int64_t axes,
                  bint exact) noexcept nogil:
    """How so many groups and taps are loaded; `exact`: stored, where nothing may lie between."""
    cdef Rows r
    cdef int64_t unit = unit_of(s, groups, taps, axes), one
    r.unit = unit
    if unit == 0:
        unit = 1
    r.axis = s.axis // unit if axes > 1 else 1
    r.tap = s.tap // unit if taps > 1 else axes
    one = breadth(&r, 1, taps, axes)
    r.group = s.group // unit if groups > 1 else one
    r.whole = 0
    if r.unit and (axes > 1 or r.tap == 1):  # the taps' factors have to be neighbours
        if one == taps * axes or not exact and one <= 2 * taps * axes:
            r.whole = 1
        if exact and r.tap != axes:
            r.whole = 0
        if r.whole and (r.group == one or not exact and r.group >= 0
                        and breadth(&r, groups, taps, axes) <= 2 * groups * taps * axes):
            r.whole = 2
    if r.whole == 1:
        r.group = one
    if r.whole == 0:
        r.axis, r.tap, r.group = 1, axes, taps * axes
    r.first = (axes - 1) * -r.axis if r.axis < 0 else 0
    r.low = 0
    return r


cdef int64_t join(const Samples* s, const Samples* t, Rows* r, Rows* q, int64_t groups,
                  int64_t taps, int64_t axes, bint exact) noexcept nogil:
    """Let offsets and factors that lie between each other be one load; rows of both, or 0."""
    cdef int64_t unit = unit_of(s, groups, taps, axes), apart, rows, one
    cdef Rows both = r[0], other = q[0]
    if (s.data == NULL or t.data == NULL or unit == 0 or unit != unit_of(t, groups, taps, 1)
            or s.storage != t.storage or s.itemsize != t.itemsize or s.batch != t.batch
            or s.position != t.position or groups > 1 and s.group != t.group):
        return 0
    apart = <int64_t> t.data - <int64_t> s.data
    if apart % (s.itemsize * unit):
        return 0
    both.unit = other.unit = unit
    both.axis = s.axis // unit if axes > 1 else 1
    both.tap = s.tap // unit if taps > 1 else axes
    other.axis = 1
    other.tap = t.tap // unit if taps > 1 else 1
    if other.tap != 1 or exact and both.tap != axes:
        return 0
    both.first = (axes - 1) * -both.axis if both.axis < 0 else 0
    other.first = both.first + apart // (s.itemsize * unit)
    both.low = 0
    other.low = other.first
    if other.low < 0:
        both.first -= other.low
        both.low -= other.low
        other.first = other.low = 0
    both.group = other.group = 0
    one = most(both.low + breadth(&both, 1, taps, axes), other.low + breadth(&other, 1, taps, 1))
    both.group = other.group = s.group // unit if groups > 1 else one
    rows = one + (groups - 1) * both.group
    both.whole = other.whole = 2
    if (exact and (one != taps * (axes + 1) or both.group != one)
            or rows > 2 * groups * taps * (axes + 1)):
        return 0
    r[0], q[0] = both, other
    return rows


cdef inline int64_t row_of(const Rows* r, int64_t slot, int64_t tap) noexcept nogil:
    return r.first + slot * r.group + tap * r.tap


cdef pyd_matrix rows_at(const Samples* s, const Rows* r, int64_t image, int64_t group, int64_t tap,
                        int64_t first, int64_t rows) noexcept nogil:
    """From the lowest row of that group and tap on."""
    cdef pyd_matrix m = sample_rows(s, image, group, tap, first)
    if r.whole:
        m.data -= (r.first - r.low) * r.unit * s.itemsize
        m.row = r.unit
    if rows == 1:
        m.row = 1
    return m


cdef void load_rows(const Job* job, const Samples* s, const Rows* r, int64_t image, int64_t group,
                    int64_t groups, int64_t tap, int64_t taps, int64_t axes, int64_t first,
                    int64_t count, char* to) noexcept nogil:
    """Bring these samples of a tile's positions."""
    cdef int64_t g, t, rows = axes
    cdef int64_t loads = groups if r.whole < 2 else 1, each = taps if r.whole == 0 else 1
    cdef pyd_matrix m
    if r.whole:
        rows = breadth(r, groups if r.whole == 2 else 1, taps, axes)
    for g in range(loads):
        for t in range(each):
            m = rows_at(s, r, image, group + g, tap + t, first, rows)
            job.k.load(&m, rows, count,
                       at(to, (r.low + g * r.group + t * r.tap) * job.stride, job.itemsize),
                       job.stride)


cdef void store_rows(const Job* job, const Samples* s, const Rows* r, int64_t image, int64_t group,
                     int64_t groups, int64_t tap, int64_t taps, int64_t axes, int64_t first,
                     int64_t count, const char* values) noexcept nogil:
    """Write these samples of a tile's positions, and nothing between them."""
    cdef int64_t g, t, rows = axes
    cdef int64_t stores = groups if r.whole < 2 else 1, each = taps if r.whole == 0 else 1
    cdef pyd_matrix m
    if r.whole:
        rows = breadth(r, groups if r.whole == 2 else 1, taps, axes)
    for g in range(stores):
        for t in range(each):
            m = rows_at(s, r, image, group + g, tap + t, first, rows)
            job.k.store(at(values, (r.low + g * r.group + t * r.tap) * job.stride, job.itemsize),
                        job.stride, rows, count, NULL, &m)
