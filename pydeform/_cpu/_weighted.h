/* Weighted sums of samples: all taps of one offset group at one position while its channels are in
 * registers, and the way back. Plans of the taps lie `step` corners apart, their scales `stride`.
 * As in _sample.h, a corner that is not read points at zeros or trash. Included by _kernels.h once
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
    int64_t c = 0;
#define PASS(registers, part)                                                              \
    FN(weigh_body)(corners, registers, part, (int)(channels - c), taps, step, plan, scale, \
                   x + c, count, zeros, accumulate, out + c, out_row)
    for (; c + 4 * LANES <= channels; c += 4 * LANES) PASS(4, 0);
    if (c + 2 * LANES <= channels) {
        PASS(2, 0);
        c += 2 * LANES;
    }
    if (c + LANES <= channels) {
        PASS(1, 0);
        c += LANES;
    }
    if (c < channels) PASS(1, 1);
#undef PASS
}

static void FN(weigh)(int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                      const void *scale, const void *x, int64_t channels, int64_t count,
                      const void *zeros, int accumulate, void *out, int64_t out_row) {
    BY_CORNERS_OR_ONE(FN(weigh_all), taps, step, plan, scale, x, channels, count, zeros,
                      accumulate, out, out_row)
}

/* dots of `points`, and gradients into grad_x of `image`: a register of positions at a time, tap
 * by tap, so that the sums of its dots stay close. */
INLINE void FN(weigh_back_body)(const int corners, const int points, const int image, int64_t taps,
                                int64_t step, const pyd_plan *plan, const real *scale,
                                const real *g, int64_t g_row, const real *x, int64_t channels,
                                int64_t count, const real *zeros, real *trash, real *grad_x,
                                real *dots) {
    const int64_t stride = plan->stride;
    vreal sums[PYD_MAX_CORNERS][LANES];
    for (int64_t first = 0; first < count; first += LANES)
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t live = count - first < LANES ? count - first : LANES;
            const int64_t start = tap * step + first;
            for (int64_t l = 0; l < live; l++) {
                const real *from[PYD_MAX_CORNERS], *gt = g + (first + l) * g_row;
                real *into[PYD_MAX_CORNERS];
                vreal w[PYD_MAX_CORNERS], sum[PYD_MAX_CORNERS];
                const vreal s = FN(all)(scale[tap * stride + first + l]);
                UNROLL for (int b = 0; b < corners; b++) {
                    const int64_t i = start + l + b * stride;
                    if (points) {
                        const int64_t at = plan->reach[i];
                        from[b] = at < 0 ? zeros : x + at;
                        sum[b] = FN(all)(0);
                    }
                    if (image) {
                        const int64_t at = plan->read[i];
                        into[b] = at < 0 ? trash : grad_x + at;
                        w[b] = FN(all)(((const real *)plan->weight)[i]);
                    }
                }
#define BODY(tail)                                                                          \
    {                                                                                       \
        const vreal G = LOAD(gt + c, tail), sG = s * G;                                     \
        if (points)                                                                         \
            UNROLL for (int b = 0; b < corners; b++) sum[b] += G * LOAD(from[b] + c, tail); \
        if (image)                                                                          \
            UNROLL for (int b = 0; b < corners; b++)                                        \
                STORE(into[b] + c, LOAD(into[b] + c, tail) + w[b] * sG, tail);              \
    }
                int64_t c = 0;
                for (; c + LANES <= channels; c += LANES) BODY(0)
                if (c < channels) BODY((int)(channels - c))
#undef BODY
                if (points)
                    UNROLL for (int b = 0; b < corners; b++) sums[b][l] = sum[b];
            }
            if (points)
                UNROLL for (int b = 0; b < corners; b++) {
                    for (int64_t l = live; l < LANES; l++) sums[b][l] = FN(all)(0);
                    FN(store)(dots + start + b * stride, FN(totals)(sums[b]));
                }
        }
}

static void FN(weigh_back)(int corners, int64_t taps, int64_t step, const pyd_plan *plan,
                           const void *scale, const void *g, int64_t g_row, const void *x,
                           int64_t channels, int64_t count, const void *zeros, void *trash,
                           void *grad_x, void *dots) {
#define CALL(points, image)                                                                    \
    BY_CORNERS_OR_ONE(FN(weigh_back_body), points, image, taps, step, plan, scale, g, g_row, x, \
                      channels, count, zeros, trash, grad_x, dots)
    if (x && grad_x)
        CALL(1, 1)
    else if (x)
        CALL(1, 0)
    else
        CALL(0, 1)
#undef CALL
}

#undef LOAD
#undef STORE
#undef BY_CORNERS_OR_ONE
