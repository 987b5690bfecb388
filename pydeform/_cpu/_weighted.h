/* Weighted sums of samples: all taps of one offset group at one position while its channels are in
 * registers, and the way back. Plans of the taps lie `step` corners apart, their scales `stride`.
 * As in _sample.h, a corner that is not read points at zeros. Included by _kernels.h once
 * per real type. */

#define LOAD(p, tail) ((tail) ? FN(load_part)((p), (tail)) : FN(load)(p))
#define STORE(p, v, tail)                  \
    do {                                   \
        if (tail)                          \
            FN(store_part)((p), (v), (tail)); \
        else                               \
            FN(store)((p), (v));           \
    } while (0)
/* As in _sample.h, and one corner: without an offset every sample is a pixel. */
#define BY_CORNERS_OR_ONE(BODY, ...)        \
    switch (corners) {                      \
    case 1: BODY(1, __VA_ARGS__); break;    \
    case 2: BODY(2, __VA_ARGS__); break;    \
    case 3: BODY(3, __VA_ARGS__); break;    \
    case 4: BODY(4, __VA_ARGS__); break;    \
    case 8: BODY(8, __VA_ARGS__); break;    \
    case 9: BODY(9, __VA_ARGS__); break;    \
    default: BODY(27, __VA_ARGS__); break;  \
    }

/* PASS(registers of channels, whether only part of one) until none are left. */
#define ALL_CHANNELS                                                     \
    int64_t c = 0;                                                       \
    if (corners == 1 || corners == 4) { /* the common ones */            \
        for (; c + 4 * LANES <= channels; c += 4 * LANES) PASS(4, 0);    \
        if (c + 2 * LANES <= channels) {                                 \
            PASS(2, 0);                                                  \
            c += 2 * LANES;                                              \
        }                                                                \
    }                                                                    \
    for (; c + LANES <= channels; c += LANES) PASS(1, 0);                \
    if (c < channels) PASS(1, 1);

/* Corners of a few positions on are asked for meanwhile, one of each row of pixels: by then they come
 * from far. What lies behind the plan's last position is some index, too. */
#define SOON 8
#define EXPECT(corners, registers, b, next, x)                                                  \
    if ((corners) >= 4 && (b) % ((corners) / 2) == 0 && (b) < (corners))                        \
        UNROLL for (int r_ = 0; r_ < ((int)sizeof(vreal) == 64 ? (registers) : 1); r_++)        \
            __builtin_prefetch((x) + (next) + r_ * LANES)

/* `registers` of channels, or the first `tail` channels of one. */
INLINE void FN(weigh_body)(const int corners, const int registers, const int part, int tail,
                           int64_t taps, int64_t step, const pyd_plan *plan, const real *scale,
                           const real *x, int64_t count, const real *zeros, int accumulate,
                           real *out, int64_t out_row) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t++) {
        real *to = out + t * out_row;
        vreal sum[4];
        UNROLL for (int r = 0; r < registers; r++)
            sum[r] = accumulate ? LOAD(to + r * LANES, part ? tail : 0) : FN(all)(0);
        const int64_t *at = plan->read + t;
        const real *weight = (const real *)plan->weight + t, *s = scale + t;
        for (int64_t tap = 0; tap < taps; tap++, at += step, weight += step, s += stride) {
            vreal blended[4];
            UNROLL for (int b = 0; b < corners; b++) {
                const int64_t here = at[b * stride];
                const real *from = here < 0 ? zeros : x + here;
                const vreal w = FN(all)(weight[b * stride]);
                EXPECT(corners, registers, b, at[b * stride + SOON], x);
                UNROLL for (int r = 0; r < registers; r++) {
                    const vreal X = LOAD(from + r * LANES, part ? tail : 0);
                    blended[r] = b ? blended[r] + w * X : w * X;
                }
            }
            const vreal m = FN(all)(*s);
            UNROLL for (int r = 0; r < registers; r++) sum[r] += m * blended[r];
        }
        UNROLL for (int r = 0; r < registers; r++)
            STORE(to + r * LANES, sum[r], part ? tail : 0);
    }
}

INLINE void FN(weigh_all)(const int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                          const real *scale, const real *x, int64_t channels, int64_t count,
                          const real *zeros, int accumulate, real *out, int64_t out_row) {
#define PASS(registers, part)                                                              \
    FN(weigh_body)(corners, registers, part, (int)(channels - c), taps, step, plan, scale, \
                   x + c, count, zeros, accumulate, out + c, out_row)
    ALL_CHANNELS
#undef PASS
}

static void FN(weigh)(int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                      const void *scale, const void *x, int64_t channels, int64_t count,
                      const void *zeros, int accumulate, void *out, int64_t out_row) {
    BY_CORNERS_OR_ONE(FN(weigh_all), taps, step, plan, scale, x, channels, count, zeros,
                      accumulate, out, out_row)
}

#if HAS_TRANSPOSE
#define FOLDS(corners) ((corners) == 4)
#else
#define FOLDS(corners) 0
INLINE vreal FN(fold_four)(const vreal *sum) { return sum[0]; }
INLINE void FN(unfold_four)(const vreal *row, vreal *out) { out[0] = row[0]; }
#endif

/* A register of positions at a time, tap by tap, so that the sums of its dots stay close. */
INLINE void FN(weigh_dots)(const int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                           const real *g, int64_t g_row, const real *x, int64_t channels,
                           int64_t count, const real *zeros, real *dots) {
    const int64_t stride = plan->stride;
    vreal sums[PYD_MAX_CORNERS][LANES];
    for (int64_t first = 0; first < count; first += LANES)
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t live = count - first < LANES ? count - first : LANES;
            const int64_t start = tap * step + first;
            for (int64_t l = 0; l < live; l++) {
                const real *from[PYD_MAX_CORNERS], *gt = g + (first + l) * g_row;
                vreal sum[PYD_MAX_CORNERS];
                UNROLL for (int b = 0; b < corners; b++) {
                    const int64_t at = plan->reach[start + l + b * stride];
                    from[b] = at < 0 ? zeros : x + at;
                    sum[b] = FN(all)(0);
                }
#define BODY(tail)                                                                          \
    {                                                                                       \
        const vreal G = LOAD(gt + c, tail);                                                 \
        UNROLL for (int b = 0; b < corners; b++) sum[b] += G * LOAD(from[b] + c, tail);     \
    }
                int64_t c = 0;
                for (; c + LANES <= channels; c += LANES) BODY(0)
                if (c < channels) BODY((int)(channels - c))
#undef BODY
                if (FOLDS(corners))
                    sums[0][l] = FN(fold_four)(sum);
                else
                    UNROLL for (int b = 0; b < corners; b++) sums[b][l] = sum[b];
            }
            if (FOLDS(corners)) {
                vreal four[4];
                UNROLL for (int l = 0; l < LANES; l++)
                    if (l >= live) sums[0][l] = FN(all)(0);
                FN(unfold_four)(sums[0], four);
                UNROLL for (int b = 0; b < 4; b++) FN(store)(dots + start + b * stride, four[b]);
                continue;
            }
            UNROLL for (int b = 0; b < corners; b++) {
                for (int64_t l = live; l < LANES; l++) sums[b][l] = FN(all)(0);
                FN(store)(dots + start + b * stride, FN(totals)(sums[b]));
            }
        }
}
#undef FOLDS

/* Corners that are not read are skipped: offsets often start at 0, and then those are most. */
INLINE void FN(weigh_scatter)(const int corners, const int registers, const int part, int tail,
                              int64_t taps, int64_t step, const pyd_plan *plan, const real *scale,
                              const real *g, int64_t g_row, int64_t count, real *x) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t++) {
        const real *weight = (const real *)plan->weight + t, *s = scale + t;
        const int64_t *at = plan->read + t;
        vreal G[4];
        UNROLL for (int r = 0; r < registers; r++)
            G[r] = LOAD(g + t * g_row + r * LANES, part ? tail : 0);
        for (int64_t tap = 0; tap < taps; tap++, at += step, weight += step, s += stride) {
            const vreal m = FN(all)(*s);
            UNROLL for (int b = 0; b < corners; b++) {
                const int64_t here = at[b * stride];
                EXPECT(corners, registers, b, at[b * stride + SOON], x);
                if (here < 0) continue;
                const vreal w = FN(all)(weight[b * stride]);
                UNROLL for (int r = 0; r < registers; r++) {
                    real *to = x + here + r * LANES;
                    STORE(to, LOAD(to, part ? tail : 0) + w * (m * G[r]), part ? tail : 0);
                }
            }
        }
    }
}

INLINE void FN(weigh_scatter_all)(const int corners, int64_t taps, int64_t step,
                                  const pyd_plan *plan, const real *scale, const real *g,
                                  int64_t g_row, int64_t channels, int64_t count, real *x) {
#define PASS(registers, part)                                                                   \
    FN(weigh_scatter)(corners, registers, part, (int)(channels - c), taps, step, plan, scale,   \
                      g + c, g_row, count, x + c)
    ALL_CHANNELS
#undef PASS
}

/* Two passes: in one, stores would often hold up loads that only share their last address bits. */
static void FN(weigh_back)(int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                           const void *scale, const void *g, int64_t g_row, const void *x,
                           int64_t channels, int64_t count, const void *zeros, void *grad_x,
                           void *dots) {
    if (x)
        BY_CORNERS_OR_ONE(FN(weigh_dots), taps, step, plan, g, g_row, x, channels, count, zeros,
                          dots)
    if (grad_x)
        BY_CORNERS_OR_ONE(FN(weigh_scatter_all), taps, step, plan, scale, g, g_row, channels, count,
                          grad_x)
}

#undef SOON
#undef EXPECT
#undef LOAD
#undef STORE
#undef ALL_CHANNELS
#undef BY_CORNERS_OR_ONE
