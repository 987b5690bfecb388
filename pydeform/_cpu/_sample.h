/* Corners to columns and back: every loop here runs along the channels of one pixel. A corner
 * that is not read (index -1) points at a row of zeros, or of trash when written to, so no loop
 * has a branch and 0 * Inf never appears. Included by _kernels.h once per real type. */

#define LOAD(p, tail) ((tail) ? FN(load_part)((p), (tail)) : FN(load)(p))
#define STORE(p, v, tail)                  \
    do {                                   \
        if (tail)                          \
            FN(store_part)((p), (v), (tail)); \
        else                               \
            FN(store)((p), (v));           \
    } while (0)
/* Body for all whole registers of `channels`, then once for the rest. */
#define ALONG_CHANNELS(BODY)                                         \
    do {                                                             \
        int64_t c = 0;                                               \
        for (; c + LANES <= channels; c += LANES) BODY(0)            \
        if (c < channels) BODY((int)(channels - c))                  \
    } while (0)
/* Every count of corners (2 or 3 to the rank) has its copy, so that pointers stay in registers. */
#define BY_CORNERS(BODY, ...)               \
    switch (corners) {                      \
    case 2: BODY(2, __VA_ARGS__); break;    \
    case 3: BODY(3, __VA_ARGS__); break;    \
    case 4: BODY(4, __VA_ARGS__); break;    \
    case 8: BODY(8, __VA_ARGS__); break;    \
    case 9: BODY(9, __VA_ARGS__); break;    \
    default: BODY(27, __VA_ARGS__); break;  \
    }

/* Long rows of channels come from far: those of two positions on are asked for meanwhile. */
#define SOON 2
#define FAR_BYTES 512

INLINE void FN(blend_body)(const int corners, int64_t stride, const int64_t *read,
                           const real *weight, const real *scale, const real *x, int64_t channels,
                           int64_t count, const real *zeros, const int accumulate, const int far,
                           real *column, int64_t column_row) {
    for (int64_t t = 0; t < count; t++) {
        const real *from[PYD_MAX_CORNERS], *soon[PYD_MAX_CORNERS];
        vreal w[PYD_MAX_CORNERS];
        UNROLL for (int b = 0; b < corners; b++) {
            const int64_t at = read[b * stride + t];
            from[b] = at < 0 ? zeros : x + at;
            w[b] = FN(all)(weight[b * stride + t]);
            if (far) {
                const int64_t next = t + SOON < count ? read[b * stride + t + SOON] : -1;
                soon[b] = next < 0 ? zeros : x + next;
            }
        }
        const vreal s = FN(all)(scale ? scale[t] : (real)1);
        real *to = column + t * column_row;
#define BODY(tail)                                                                  \
    {                                                                               \
        vreal sum = w[0] * LOAD(from[0] + c, tail);                                 \
        UNROLL for (int b = 1; b < corners; b++) sum += w[b] * LOAD(from[b] + c, tail); \
        if (far) UNROLL for (int b = 0; b < corners; b++) __builtin_prefetch(soon[b] + c); \
        sum *= s;                                                                   \
        if (accumulate) sum += LOAD(to + c, tail);                                  \
        STORE(to + c, sum, tail);                                                   \
    }
        ALONG_CHANNELS(BODY);
#undef BODY
    }
}

static void FN(blend)(int corners, int64_t stride, const int64_t *read, const void *weight,
                      const void *scale, const void *x, int64_t channels, int64_t count,
                      const void *zeros, int accumulate, void *column, int64_t column_row) {
    if (accumulate)
        BY_CORNERS(FN(blend_body), stride, read, weight, scale, x, channels, count, zeros, 1, 0,
                   column, column_row)
    else if (channels * (int64_t)sizeof(real) >= FAR_BYTES)
        BY_CORNERS(FN(blend_body), stride, read, weight, scale, x, channels, count, zeros, 0, 1,
                   column, column_row)
    else
        BY_CORNERS(FN(blend_body), stride, read, weight, scale, x, channels, count, zeros, 0, 0,
                   column, column_row)
}
#undef SOON
#undef FAR_BYTES

/* dots of the last LANES positions from their registers of sums; rows are padded that far. */
#define ADD_UP(sum)                                                            \
    do {                                                                       \
        const int64_t lane = t % LANES;                                        \
        UNROLL for (int b = 0; b < corners; b++) sums[b][lane] = sum[b];       \
        if (lane == LANES - 1 || t == count - 1)                               \
            UNROLL for (int b = 0; b < corners; b++) {                         \
                for (int64_t l = lane + 1; l < LANES; l++)                     \
                    sums[b][l] = FN(all)(0);                                   \
                FN(store)(dots + b * stride + t - lane, FN(totals)(sums[b]));  \
            }                                                                  \
    } while (0)

INLINE void FN(dots_body)(const int corners, int64_t stride, const int64_t *reach, const real *g,
                          int64_t g_row, const real *x, int64_t channels, int64_t count,
                          const real *zeros, real *dots) {
    vreal sums[PYD_MAX_CORNERS][LANES]; /* of LANES positions, added up together */
    for (int64_t t = 0; t < count; t++) {
        const real *from[PYD_MAX_CORNERS], *gt = g + t * g_row;
        vreal sum[PYD_MAX_CORNERS];
        UNROLL for (int b = 0; b < corners; b++) {
            const int64_t at = reach[b * stride + t];
            from[b] = at < 0 ? zeros : x + at;
            sum[b] = FN(all)(0);
        }
#define BODY(tail)                                                              \
    {                                                                           \
        const vreal G = LOAD(gt + c, tail);                                     \
        UNROLL for (int b = 0; b < corners; b++) sum[b] += G * LOAD(from[b] + c, tail); \
    }
        ALONG_CHANNELS(BODY);
#undef BODY
        ADD_UP(sum);
    }
}

static void FN(dots)(int corners, int64_t stride, const int64_t *reach, const void *g,
                     int64_t g_row, const void *x, int64_t channels, int64_t count,
                     const void *zeros, void *dots) {
    BY_CORNERS(FN(dots_body), stride, reach, g, g_row, x, channels, count, zeros, dots)
}

INLINE void FN(scatter_body)(const int corners, int64_t stride, const int64_t *read,
                             const real *weight, const real *scale, const real *g, int64_t g_row,
                             int64_t channels, int64_t count, real *x, real *trash) {
    for (int64_t t = 0; t < count; t++) {
        const real *gt = g + t * g_row;
        real *to[PYD_MAX_CORNERS];
        vreal w[PYD_MAX_CORNERS];
        UNROLL for (int b = 0; b < corners; b++) {
            const int64_t at = read[b * stride + t];
            to[b] = at < 0 ? trash : x + at;
            w[b] = FN(all)(weight[b * stride + t]);
        }
        const vreal s = FN(all)(scale ? scale[t] : (real)1);
#define BODY(tail)                                                                       \
    {                                                                                    \
        const vreal G = s * LOAD(gt + c, tail);                                          \
        UNROLL for (int b = 0; b < corners; b++)                                         \
            STORE(to[b] + c, LOAD(to[b] + c, tail) + w[b] * G, tail);                    \
    }
        ALONG_CHANNELS(BODY);
#undef BODY
    }
}

static void FN(scatter)(int corners, int64_t stride, const int64_t *read, const void *weight,
                        const void *scale, const void *g, int64_t g_row, int64_t channels,
                        int64_t count, void *x, void *trash) {
    BY_CORNERS(FN(scatter_body), stride, read, weight, scale, g, g_row, channels, count, x, trash)
}

INLINE void FN(sweep_body)(const int corners, const pyd_plan *plan, const real *scale,
                           const real *g, int64_t g_row, const real *x, int64_t channels,
                           int64_t count, const real *zeros, real *trash, real *column,
                           int64_t column_row, real *grad_x, real *dots) {
    const int64_t stride = plan->stride;
    vreal sums[PYD_MAX_CORNERS][LANES]; /* of LANES positions, added up together */
    for (int64_t t = 0; t < count; t++) {
        const real *from[PYD_MAX_CORNERS], *gt = g + t * g_row;
        real *into[PYD_MAX_CORNERS], *to = column + t * column_row;
        vreal w[PYD_MAX_CORNERS], sum[PYD_MAX_CORNERS];
        UNROLL for (int b = 0; b < corners; b++) {
            const int64_t at = plan->read[b * stride + t];
            from[b] = at < 0 ? zeros : x + at;
            into[b] = at < 0 ? trash : grad_x + at;
            w[b] = FN(all)(((const real *)plan->weight)[b * stride + t]);
            sum[b] = FN(all)(0);
        }
        const vreal s = FN(all)(scale ? scale[t] : (real)1);
#define BODY(tail)                                                              \
    {                                                                           \
        const vreal G = LOAD(gt + c, tail), sG = s * G;                         \
        vreal blended = FN(all)(0);                                             \
        UNROLL for (int b = 0; b < corners; b++) {                              \
            const vreal X = LOAD(from[b] + c, tail);                            \
            sum[b] += G * X;                                                    \
            blended = b ? blended + w[b] * X : w[b] * X;                        \
        }                                                                       \
        STORE(to + c, s * blended, tail);                                       \
        UNROLL for (int b = 0; b < corners; b++)                                \
            STORE(into[b] + c, LOAD(into[b] + c, tail) + w[b] * sG, tail);      \
    }
        ALONG_CHANNELS(BODY);
#undef BODY
        ADD_UP(sum);
    }
}

static void FN(sweep)(int corners, const pyd_plan *plan, const void *scale, const void *g,
                      int64_t g_row, const void *x, int64_t channels, int64_t count,
                      const void *zeros, void *trash, void *column, int64_t column_row,
                      void *grad_x, void *dots) {
    BY_CORNERS(FN(sweep_body), plan, scale, g, g_row, x, channels, count, zeros, trash, column,
               column_row, grad_x, dots)
}

/* The weight of corner b for the chosen derivative, for a register of positions. */
INLINE vreal FN(corner_weight)(const int rank, const int length, const pyd_plan *plan, int axes,
                               int b, int64_t t) {
    vreal w = FN(all)(1);
    UNROLL for (int a = rank - 1; a >= 0; a--) {
        const real *row = (axes >> a & 1) ? plan->slope : plan->value;
        w *= FN(load)(row + (a * length + b % length) * plan->stride + t);
        b /= length;
    }
    return w;
}

static void FN(corner_weights)(const pyd_field *field, const pyd_plan *plan, int axes,
                               const void *scale, int64_t count, int accumulate, void *weight) {
    for (int b = 0; b < field->corners; b++)
        for (int64_t t = 0; t < count; t += LANES) {
            real *to = (real *)weight + b * plan->stride + t;
            const vreal raw = FN(corner_weight)(field->rank, field->length, plan, axes, b, t);
            const vreal w = FN(keep)(NOTEQUAL(raw, FN(all)(0)),
                                     scale ? raw * FN(load)((const real *)scale + t) : raw);
            FN(store)(to, accumulate ? FN(load)(to) + w : w);
        }
}

static void FN(corners_read)(const pyd_field *field, const pyd_plan *plan, const void *weight,
                             int64_t count, int64_t *read) {
    for (int b = 0; b < field->corners; b++)
        for (int64_t t = 0; t < count; t++) {
            const int64_t at = b * plan->stride + t;
            read[at] = ((const real *)weight)[at] != 0 ? plan->reach[at] : -1;
        }
}

static void FN(contract)(const pyd_field *field, const pyd_plan *plan, int axes, const void *dots,
                         const void *scale, int64_t count, int accumulate, void *out) {
    for (int64_t t = 0; t < count; t += LANES) {
        vreal sum = FN(all)(0);
        for (int b = 0; b < field->corners; b++) {
            const vreal w = FN(corner_weight)(field->rank, field->length, plan, axes, b, t);
            const vreal d = FN(load)((const real *)dots + b * plan->stride + t);
            sum += FN(keep)(NOTEQUAL(w, FN(all)(0)), w * d);
        }
        if (scale) sum *= FN(load)((const real *)scale + t);
        real *to = (real *)out + t;
        FN(store)(to, accumulate ? FN(load)(to) + sum : sum);
    }
}

/* The sums of all weights and of each axis' slopes at once, those times scale. */
INLINE void FN(contract_body)(const int rank, const int length, const pyd_plan *plan,
                              const real *dots, const real *scale, int64_t count, real *sum,
                              real *sums, int64_t row) {
    const int64_t stride = plan->stride;
    const int corners = rank == 1 ? length : rank == 2 ? length * length : length * length * length;
    for (int64_t t = 0; t < count; t += LANES) {
        vreal total[PYD_MAX_RANK + 1];
        UNROLL for (int i = 0; i <= rank; i++) total[i] = FN(all)(0);
        UNROLL for (int b = 0; b < corners; b++) {
            const vreal d = FN(load)(dots + b * stride + t);
            UNROLL for (int i = 0; i <= rank; i++) { /* i < rank: the slope of that axis */
                const vreal w = i < rank ? FN(corner_weight)(rank, length, plan, 1 << i, b, t)
                                         : FN(load)((const real *)plan->weight + b * stride + t);
                total[i] += FN(keep)(NOTEQUAL(w, FN(all)(0)), w * d);
            }
        }
        if (sum) FN(store)(sum + t, total[rank]);
        if (sums) UNROLL for (int a = 0; a < rank; a++)
            FN(store)(sums + a * row + t, total[a] * FN(load)(scale + t));
    }
}

static void FN(contract_all)(const pyd_field *field, const pyd_plan *plan, const void *dots,
                             const void *scale, int64_t count, void *sum, void *sums,
                             int64_t row) {
#define CASE(RANK, LENGTH)                                                                      \
    if (field->rank == RANK && field->length == LENGTH)                                         \
        FN(contract_body)(RANK, LENGTH, plan, dots, scale, count, sum, sums, row);
    CASE(2, 2) CASE(1, 2) CASE(3, 2) CASE(2, 3) CASE(1, 3) CASE(3, 3)
#undef CASE
}

#undef LOAD
#undef STORE
#undef ALONG_CHANNELS
#undef ADD_UP
