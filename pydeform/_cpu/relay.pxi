# Numbers from one layout to another: scaled, moved and with their last axis turned around.

cdef extern from *:
    """
    /* Pairs side by side on both sides: neighbours are turned around in registers. */
    #define PYD_TURN(real, name)                                                             \
        static void name(const real *restrict s, const real *restrict start, real x, real y, \
                         int64_t taps, real *restrict o) {                                   \
            int64_t tap;                                                                     \
            if (start)                                                                       \
                for (tap = 0; tap < taps; tap++) {                                           \
                    o[2 * tap] = s[2 * tap + 1] * y + start[2 * tap + 1];                    \
                    o[2 * tap + 1] = s[2 * tap] * x + start[2 * tap];                        \
                }                                                                            \
            else                                                                             \
                for (tap = 0; tap < taps; tap++) {                                           \
                    o[2 * tap] = s[2 * tap + 1] * y;                                         \
                    o[2 * tap + 1] = s[2 * tap] * x;                                         \
                }                                                                            \
        }
    PYD_TURN(float, pyd_turn_f32)
    PYD_TURN(double, pyd_turn_f64)
    """
    void pyd_turn_f32(const float*, const float*, float, float, int64_t, float*) noexcept nogil
    void pyd_turn_f64(const double*, const double*, double, double, int64_t, double*) noexcept nogil

ctypedef fused real:
    float
    double

ctypedef struct Relay:
    int64_t rows, groups, taps
    int axes
    int64_t source[3]  # strides of [rows, groups, taps] in elements
    int64_t out[3]


cdef void relay_rows(const Relay* t, const real* source, const real* scale, const real* start,
                     real* out, int64_t first, int64_t last) noexcept nogil:
    cdef int64_t row, group, tap
    cdef bint whole = t.source[2] == t.axes and t.out[2] == t.axes  # taps lie side by side
    cdef const real* s
    cdef real* o
    for row in range(first, last):
        for group in range(t.groups):
            s = source + row * t.source[0] + group * t.source[1]
            o = out + row * t.out[0] + group * t.out[1]
            if whole and t.axes == 1 and scale[0] == 1:
                memcpy(o, s, <size_t> t.taps * sizeof(real))
            elif whole and t.axes == 2:
                if real is float:
                    pyd_turn_f32(s, start, scale[0], scale[1], t.taps, o)
                else:
                    pyd_turn_f64(s, start, scale[0], scale[1], t.taps, o)
            elif t.axes == 1:
                for tap in range(t.taps):
                    o[tap * t.out[2]] = s[tap * t.source[2]] * scale[0]
            elif start == NULL:
                for tap in range(t.taps):
                    o[tap * t.out[2] + 1] = s[tap * t.source[2]] * scale[0]
                    o[tap * t.out[2]] = s[tap * t.source[2] + 1] * scale[1]
            else:
                for tap in range(t.taps):
                    o[tap * t.out[2] + 1] = s[tap * t.source[2]] * scale[0] + start[2 * tap]
                    o[tap * t.out[2]] = s[tap * t.source[2] + 1] * scale[1] + start[2 * tap + 1]


cdef void* data_of(array):
    return <void*> <uintptr_t> array.__array_interface__["data"][0]


def relay(source, scale, start, out):
    """Write out[r, b, k, -1-a] = source[r, b, k, a] * scale[a] + start[k, a]; 1 axis: no start."""
    cdef Relay t
    cdef int64_t block, blocks
    cdef int threads, i
    cdef bint doubles = source.dtype.char == "d"
    cdef void* from_ = data_of(source)
    cdef void* factors = data_of(scale)
    cdef void* moves = NULL if start is None else data_of(start)
    cdef void* to = data_of(out)
    t.rows, t.groups, t.taps, t.axes = source.shape
    for i in range(3):
        t.source[i] = source.strides[i] // source.itemsize
        t.out[i] = out.strides[i] // out.itemsize
    blocks = (t.rows + 255) // 256
    threads = threads_for(4.0 * t.rows * t.groups * t.taps * t.axes, blocks)
    for block in prange(blocks, nogil=True, num_threads=threads, schedule="static"):
        relay_block(&t, doubles, from_, factors, moves, to, 256 * block)


cdef void relay_block(const Relay* t, bint doubles, const void* source, const void* scale,
                      const void* start, void* out, int64_t first) noexcept nogil:
    cdef int64_t last = least(first + 256, t.rows)
    if doubles:
        relay_rows[double](t, <const double*> source, <const double*> scale,
                           <const double*> start, <double*> out, first, last)
    else:
        relay_rows[float](t, <const float*> source, <const float*> scale,
                          <const float*> start, <float*> out, first, last)
