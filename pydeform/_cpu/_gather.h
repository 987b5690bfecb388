/* The same along positions: every loop gathers its corners, so that the registers are full however
 * few the channels. Images are read and gradients written where they lie, in any layout and storage.
 * Columns are rows of positions. Included by _kernels.h once per real type. */

#define PAIRS (PYD_MAX_CORNERS / 2)

/* Where a register of positions reads two corners that lie side by side. Processors gather slowly:
 * one load of both, a lane at a time, takes less. A lane of which one corner is read loads it as
 * the second of two; one without corners loads what it then drops. */
typedef struct {
    int usable;                /* every lane has two elements to load */
    int whole;                 /* every corner is read */
    const int64_t *at[PAIRS];  /* [LANES]: where a lane loads */
    int64_t room[PAIRS][LANES];
    unsigned first[PAIRS], second[PAIRS]; /* lanes whose corner is read, as bits */
    unsigned swap[PAIRS];                 /* lanes whose first corner came as the second */
} FN(pairs);

#if defined(__AVX512F__) && REGISTER == 64 && !IS_DOUBLE
INLINE void FN(find_pairs)(const int corners, const pyd_plan *plan, const int64_t *at,
                           FN(pairs) *pairs) {
    const int64_t stride = plan->stride;
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi64(1);
    __m512i any = zero;
    pairs->usable = plan->adjacent && corners % 2 == 0;
    if (!pairs->usable) return;
    UNROLL for (int b = 0; b < corners; b++) UNROLL for (int h = 0; h < LANES; h += 8)
        any = _mm512_or_si512(any, _mm512_loadu_si512(at + b * stride + h));
    pairs->whole = !_mm512_movepi64_mask(any);
    UNROLL for (int p = 0; p < corners / 2; p++) pairs->at[p] = at + 2 * p * stride;
    if (pairs->whole) return;
    any = zero;
    UNROLL for (int p = 0; p < corners / 2; p++) {
        pairs->first[p] = pairs->second[p] = 0;
        UNROLL for (int h = 0; h < LANES; h += 8) {
            const __m512i i = _mm512_loadu_si512(at + 2 * p * stride + h);
            const __m512i j = _mm512_loadu_si512(at + (2 * p + 1) * stride + h);
            const __mmask8 out = _mm512_movepi64_mask(i), lone = _mm512_movepi64_mask(j);
            __m512i from = _mm512_mask_sub_epi64(i, lone, i, one);
            from = _mm512_mask_sub_epi64(from, out, j, one);
            from = _mm512_maskz_mov_epi64((__mmask8)~(out & lone), from);
            any = _mm512_or_si512(any, from);
            _mm512_storeu_si512(pairs->room[p] + h, from);
            pairs->first[p] |= (unsigned)(uint8_t)~out << h;
            pairs->second[p] |= (unsigned)(uint8_t)~lone << h;
        }
        pairs->swap[p] = pairs->first[p] & ~pairs->second[p];
        pairs->at[p] = pairs->room[p];
    }
    pairs->usable = !_mm512_movepi64_mask(any);
}

/* 16 halves of words: the bits of float16 or bfloat16. */
INLINE __m512 FN(widen)(const int storage, __m512i bits) {
    if (storage == PYD_BFLOAT16) return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
}

INLINE void FN(load_pairs)(const char *data, const int storage, int64_t element,
                           const FN(pairs) *pairs, const int p, vreal *first, vreal *second) {
    const real *x = (const real *)data + element;
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const int64_t *at = pairs->at[p];
    __m512 half[2], a, b;
    if (storage != PYD_NATIVE) { /* two of 16 bits are one word */
        uint32_t both[LANES];
        UNROLL for (int l = 0; l < LANES; l++)
            memcpy(both + l, (const uint16_t *)data + element + at[l], sizeof *both);
        const __m512i words = _mm512_loadu_si512(both);
        a = FN(widen)(storage, _mm512_and_si512(words, _mm512_set1_epi32(0xffff)));
        b = FN(widen)(storage, _mm512_srli_epi32(words, 16));
    } else {
        UNROLL for (int h = 0; h < 2; h++) {
            __m128 two[4];
            UNROLL for (int l = 0; l < 4; l++) {
                const int64_t *of = at + 8 * h + 2 * l;
                two[l] = _mm_loadl_pi(_mm_setzero_ps(), (const __m64 *)(x + of[0]));
                two[l] = _mm_loadh_pi(two[l], (const __m64 *)(x + of[1]));
            }
            const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(two[0]), two[1], 1);
            const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(two[2]), two[3], 1);
            half[h] = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
        }
        a = _mm512_permutex2var_ps(half[0], even, half[1]);
        b = _mm512_permutex2var_ps(half[0], odd, half[1]);
    }
    *first = (vreal)a;
    *second = (vreal)b;
    if (pairs->whole) return;
    *first = (vreal)_mm512_maskz_mov_ps(
        (__mmask16)pairs->first[p], _mm512_mask_mov_ps(a, (__mmask16)pairs->swap[p], b));
    *second = (vreal)_mm512_maskz_mov_ps((__mmask16)pairs->second[p], b);
}
#else
INLINE void FN(find_pairs)(const int corners, const pyd_plan *plan, const int64_t *at,
                           FN(pairs) *pairs) {
    (void)corners, (void)plan, (void)at;
    pairs->usable = 0;
}
INLINE void FN(load_pairs)(const char *data, const int storage, int64_t element,
                           const FN(pairs) *pairs, const int p, vreal *first, vreal *second) {
    (void)data, (void)storage, (void)element, (void)pairs, (void)p, (void)first, (void)second;
}
#endif

#if !IS_DOUBLE
/* Element at[l] of 16 bits for every lane, 0 where at[l] is negative. */
INLINE vreal FN(gather_half)(const int storage, const uint16_t *from, const int64_t *at) {
    uint16_t bits[LANES];
    real part[LANES];
    for (int l = 0; l < LANES; l++) bits[l] = at[l] < 0 ? 0 : from[at[l]];
    if (storage == PYD_BFLOAT16)
        for (int l = 0; l < LANES; l++) part[l] = pyd_from_bfloat16(bits[l]);
    else
        for (int l = 0; l < LANES; l++) part[l] = pyd_from_float16(bits[l]);
    return FN(load)(part);
}
#endif

/* Bodies with the storage of images known where that is the working type: its loops ask nothing. */
#define BY_STORAGE(storage, BODY, ...)                         \
    if ((storage) == PYD_NATIVE) {                             \
        BY_CORNERS(BODY, PYD_NATIVE, __VA_ARGS__)              \
    } else {                                                   \
        BY_CORNERS(BODY, storage, __VA_ARGS__)                 \
    }

/* All corners of a register of positions in one channel, from indices that start at `at`, of which
 * `pairs` is what find_pairs found. */
INLINE void FN(gather_corners)(const int corners, const int storage, int64_t stride,
                               const int64_t *at, const FN(pairs) *pairs, const pyd_planes *x,
                               int64_t channel, vreal out[]) {
    const int64_t element = channel * x->channel;
    if (pairs->usable)
        UNROLL for (int p = 0; p < corners / 2; p++)
            FN(load_pairs)(x->data, storage, element, pairs, p, &out[2 * p], &out[2 * p + 1]);
#if !IS_DOUBLE
    else if (storage != PYD_NATIVE)
        UNROLL for (int b = 0; b < corners; b++)
            out[b] = FN(gather_half)(storage, (const uint16_t *)x->data + element, at + b * stride);
#endif
    else
        UNROLL for (int b = 0; b < corners; b++)
            out[b] = FN(gather)((const real *)x->data + element, at + b * stride);
}

INLINE void FN(gather_blend_body)(const int corners, const int storage, const pyd_plan *plan,
                                  const real *scale, const pyd_planes *x, int64_t channels,
                                  int64_t count, int accumulate, real *column,
                                  int64_t column_row) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t += LANES) {
        vreal w[PYD_MAX_CORNERS];
        FN(pairs) pairs;
        const vreal s = scale ? FN(load)(scale + t) : FN(all)(1);
        UNROLL for (int b = 0; b < corners; b++)
            w[b] = FN(load)((const real *)plan->weight + b * stride + t);
        FN(find_pairs)(corners, plan, plan->read + t, &pairs);
        for (int64_t c = 0; c < channels; c++) {
            real *to = column + c * column_row + t;
            vreal x_at[PYD_MAX_CORNERS], sum;
            FN(gather_corners)(corners, storage, stride, plan->read + t, &pairs, x, c, x_at);
            sum = w[0] * x_at[0];
            UNROLL for (int b = 1; b < corners; b++) sum += w[b] * x_at[b];
            FN(store)(to, accumulate ? FN(load)(to) + s * sum : s * sum);
        }
    }
}

static void FN(gather_blend)(int corners, const pyd_plan *plan, const void *scale,
                             const pyd_planes *x, int64_t channels, int64_t count, int accumulate,
                             void *column, int64_t column_row) {
    BY_STORAGE(x->storage, FN(gather_blend_body), plan, scale, x, channels, count, accumulate,
               column, column_row)
}

/* Add the rows s * g to those corners of the gradient that are here. */
INLINE void FN(gather_scatter)(const int corners, const pyd_plan *plan, int64_t t, int64_t live,
                               const vreal w[], vreal sG, const pyd_planes *grad,
                               int64_t channel) {
    real *to = (real *)grad->data + channel * grad->channel;
    UNROLL for (int b = 0; b < corners; b++) {
        const int64_t *at = plan->read + b * plan->stride + t;
        real part[LANES];
        FN(store)(part, w[b] * sG);
        for (int64_t l = 0; l < live; l++) {
            const int64_t here = at[l] - grad->first;
            if ((uint64_t)here < (uint64_t)grad->count) to[here] += part[l];
        }
    }
}

INLINE void FN(gather_sweep_body)(const int corners, const int storage, const pyd_plan *plan,
                                  const real *scale, const real *g, int64_t row,
                                  const pyd_planes *x, int64_t channels, int64_t count,
                                  int accumulate, real *column, const pyd_planes *grad,
                                  real *dots) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t += LANES) {
        const int64_t live = count - t < LANES ? count - t : LANES;
        vreal w[PYD_MAX_CORNERS], sum[PYD_MAX_CORNERS];
        FN(pairs) reach, read;
        const vreal s = scale ? FN(load)(scale + t) : FN(all)(1);
        UNROLL for (int b = 0; b < corners; b++) {
            w[b] = FN(load)((const real *)plan->weight + b * stride + t);
            sum[b] = FN(all)(0);
        }
        if (x) FN(find_pairs)(corners, plan, plan->reach + t, &reach);
        if (x && plan->differs) FN(find_pairs)(corners, plan, plan->read + t, &read);
        for (int64_t c = 0; c < channels; c++) {
            const vreal G = FN(load)(g + c * row + t);
            if (x) {
                vreal x_at[PYD_MAX_CORNERS], blended;
                FN(gather_corners)(corners, storage, stride, plan->reach + t, &reach, x, c, x_at);
                UNROLL for (int b = 0; b < corners; b++) sum[b] += G * x_at[b];
                if (column) {
                    if (plan->differs)
                        FN(gather_corners)(corners, storage, stride, plan->read + t, &read, x, c,
                                           x_at);
                    blended = w[0] * x_at[0];
                    UNROLL for (int b = 1; b < corners; b++) blended += w[b] * x_at[b];
                    real *to = column + c * row + t;
                    FN(store)(to, accumulate ? FN(load)(to) + s * blended : s * blended);
                }
            }
            if (grad) FN(gather_scatter)(corners, plan, t, live, w, s * G, grad, c);
        }
        if (x) UNROLL for (int b = 0; b < corners; b++) FN(store)(dots + b * stride + t, sum[b]);
    }
}

static void FN(gather_sweep)(int corners, const pyd_plan *plan, const void *scale, const void *g,
                             int64_t row, const pyd_planes *x, int64_t channels, int64_t count,
                             int accumulate, void *column, const pyd_planes *grad, void *dots) {
    BY_STORAGE(x ? x->storage : PYD_NATIVE, FN(gather_sweep_body), plan, scale, g, row, x, channels,
               count, accumulate, column, grad, dots)
}

#undef BY_STORAGE
#undef BY_CORNERS
#undef PAIRS
