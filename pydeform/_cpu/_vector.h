/* One register as a type, for REAL = float or double and REGISTER bytes. Included once per real
 * type by _kernels.h. GCC and Clang vectors; elsewhere a register holds one number. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FN(name) JOIN(name, SUFFIX)

#define real REAL
#define vreal FN(vreal)
#define vint FN(vint)    /* comparison masks, and indices that fit the width of a real */
#define vlong FN(vlong)  /* 64-bit integers, one per lane */

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline, unused))
#define NOINLINE static __attribute__((noinline, unused))
#define UNROLL _Pragma("GCC unroll 27")
#define LANES ((int)(REGISTER / sizeof(REAL)))
typedef REAL vreal __attribute__((vector_size(REGISTER)));
typedef REAL FN(vreal_u) __attribute__((vector_size(REGISTER), aligned(sizeof(REAL)), may_alias));
typedef MASK_INT vint __attribute__((vector_size(REGISTER)));
typedef int64_t vlong __attribute__((vector_size(REGISTER / sizeof(REAL) * 8)));
typedef int64_t FN(vlong_u)
    __attribute__((vector_size(REGISTER / sizeof(REAL) * 8), aligned(8), may_alias));
typedef union {
    vreal r;
    vint i;
} FN(bits);
#define LESS(a, b) ((a) < (b))
#define EQUAL(a, b) ((a) == (b))
#define NOTEQUAL(a, b) ((a) != (b))
#define AS_INT(r) ((vint)(r))
#define AS_REAL(i) ((vreal)(i))
#define TO_INT(r) __builtin_convertvector((r), vint)
#define TO_REAL(i) __builtin_convertvector((i), vreal)
#define INT_TO_LONG(i) __builtin_convertvector((i), vlong)
#define LONG_TO_INT(i) __builtin_convertvector((i), vint)
#define LONG_TO_REAL(i) __builtin_convertvector((i), vreal)
#define REAL_TO_LONG(r) __builtin_convertvector((r), vlong)
INLINE vreal FN(load)(const real *p) { return *(const FN(vreal_u) *)p; }
INLINE void FN(store)(real *p, vreal v) { *(FN(vreal_u) *)p = v; }
INLINE vlong FN(load_long)(const int64_t *p) { return *(const FN(vlong_u) *)p; }
INLINE void FN(store_long)(int64_t *p, vlong v) { *(FN(vlong_u) *)p = v; }
INLINE vreal FN(all)(real x) { return x - (vreal){0}; }
INLINE vint FN(all_int)(MASK_INT x) { return x - (vint){0}; }
INLINE vlong FN(all_long)(int64_t x) { return x - (vlong){0}; }
INLINE real FN(total)(vreal v) {
    real half[LANES]; /* a fixed tree: the bits depend on nothing but the width of a register */
    FN(store)(half, v);
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) half[i] += half[i + n];
    return half[0];
}
INLINE int FN(any)(vint m) {
    MASK_INT found = 0;
    for (int i = 0; i < LANES; i++) found |= m[i];
    return found != 0;
}
#else
#define INLINE static inline
#define NOINLINE static
#define UNROLL
#define LANES 1
typedef REAL vreal;
typedef MASK_INT vint;
typedef int64_t vlong;
INLINE vint FN(as_int)(vreal r) { vint i; memcpy(&i, &r, sizeof i); return i; }
INLINE vreal FN(as_real)(vint i) { vreal r; memcpy(&r, &i, sizeof r); return r; }
#define LESS(a, b) (-((a) < (b)))
#define EQUAL(a, b) (-((a) == (b)))
#define NOTEQUAL(a, b) (-((a) != (b)))
#define AS_INT(r) FN(as_int)(r)
#define AS_REAL(i) FN(as_real)(i)
#define TO_INT(r) ((vint)(r))
#define TO_REAL(i) ((vreal)(i))
#define INT_TO_LONG(i) ((vlong)(i))
#define LONG_TO_INT(i) ((vint)(i))
#define LONG_TO_REAL(i) ((vreal)(i))
#define REAL_TO_LONG(r) ((vlong)(r))
INLINE vreal FN(load)(const real *p) { return *p; }
INLINE void FN(store)(real *p, vreal v) { *p = v; }
INLINE vlong FN(load_long)(const int64_t *p) { return *p; }
INLINE void FN(store_long)(int64_t *p, vlong v) { *p = v; }
INLINE vreal FN(all)(real x) { return x; }
INLINE vint FN(all_int)(MASK_INT x) { return x; }
INLINE vlong FN(all_long)(int64_t x) { return x; }
INLINE real FN(total)(vreal v) { return v; }
INLINE int FN(any)(vint m) { return m != 0; }
#endif

/* a where the mask is set, else b. */
INLINE vreal FN(pick)(vint mask, vreal a, vreal b) {
    return AS_REAL((AS_INT(a) & mask) | (AS_INT(b) & ~mask));
}
/* r where the mask is set, else 0. */
INLINE vreal FN(keep)(vint mask, vreal r) { return AS_REAL(AS_INT(r) & mask); }

/* A mask of the first n lanes, all of them when n >= LANES. */
INLINE vint FN(first_lanes)(int64_t n) {
    real part[LANES];
    if (n >= LANES) return ~FN(all_int)(0);
    for (int i = 0; i < LANES; i++) part[i] = (real)(i < n);
    return NOTEQUAL(FN(load)(part), FN(all)(0));
}

/* Rows to columns in registers, where two of them can be mixed freely. */
#if defined(__AVX512F__) && REGISTER == 64
#define HAS_TRANSPOSE 1
#if IS_DOUBLE
#define MIX(a, i, b) ((vreal)_mm512_permutex2var_pd((__m512d)(a), (__m512i)(i), (__m512d)(b)))
#else
#define MIX(a, i, b) ((vreal)_mm512_permutex2var_ps((__m512)(a), (__m512i)(i), (__m512)(b)))
#endif
/* How a pair of registers exchanges its off-diagonal squares of `half` lanes: lane l of the first
 * result comes from lane low[l] of the pair (LANES + l: of the second register), and so on. */
#define LOW(l, half) ((l) & (half) ? LANES + ((l) ^ (half)) : (l))
#define HIGH(l, half) ((l) & (half) ? LANES + (l) : (l) ^ (half))
#define QUARTER(l, b) ((l) % (LANES / 2) * 4 + (b))
#define JOINED(l, unused) ((l) < LANES / 2 ? (l) : LANES + (l) - LANES / 2)
#define EIGHT(LANE, l, x)                                                                     \
    LANE(l, x), LANE(l + 1, x), LANE(l + 2, x), LANE(l + 3, x), LANE(l + 4, x), LANE(l + 5, x), \
        LANE(l + 6, x), LANE(l + 7, x)
#if IS_DOUBLE
#define EACH(LANE, x) {EIGHT(LANE, 0, x)}
#else
#define EACH(LANE, x) {EIGHT(LANE, 0, x), EIGHT(LANE, 8, x)}
#endif
/* In memory: compilers would put them together lane by lane wherever they are needed. */
static const vint FN(lows)[] = {EACH(LOW, 1), EACH(LOW, 2), EACH(LOW, 4), EACH(LOW, 8)};
static const vint FN(highs)[] = {EACH(HIGH, 1), EACH(HIGH, 2), EACH(HIGH, 4), EACH(HIGH, 8)};
static const vint FN(quarters)[] = {EACH(QUARTER, 0), EACH(QUARTER, 1), EACH(QUARTER, 2),
                                    EACH(QUARTER, 3)};
static const vint FN(joined) = EACH(JOINED, 0);
#undef LOW
#undef HIGH
#undef QUARTER
#undef JOINED
#undef EIGHT
#undef EACH
INLINE void FN(exchange)(const int half, vint *low, vint *high) {
    const int which = half == 1 ? 0 : half == 2 ? 1 : half == 4 ? 2 : 3;
    *low = FN(lows)[which];
    *high = FN(highs)[which];
}
/* Squares by shuffles that stay within 16 bytes, then of 16 bytes: half the time of `exchange`. */
INLINE void FN(transpose)(vreal row[LANES]) {
#if IS_DOUBLE
#define SHUFFLE(a, b, pick) ((vreal)_mm512_shuffle_f64x2((__m512d)(a), (__m512d)(b), pick))
    vreal pair[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        pair[i] = (vreal)_mm512_unpacklo_pd((__m512d)row[i], (__m512d)row[i + 1]);
        pair[i + 1] = (vreal)_mm512_unpackhi_pd((__m512d)row[i], (__m512d)row[i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++) UNROLL for (int h = 0; h < 2; h++) {
        row[i + 4 * h] = SHUFFLE(pair[i + 4 * h], pair[i + 4 * h + 2], 0x88);
        row[i + 4 * h + 2] = SHUFFLE(pair[i + 4 * h], pair[i + 4 * h + 2], 0xdd);
    }
#else
#define SHUFFLE(a, b, pick) ((vreal)_mm512_shuffle_f32x4((__m512)(a), (__m512)(b), pick))
    vreal pair[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        pair[i] = (vreal)_mm512_unpacklo_ps((__m512)row[i], (__m512)row[i + 1]);
        pair[i + 1] = (vreal)_mm512_unpackhi_ps((__m512)row[i], (__m512)row[i + 1]);
    }
    UNROLL for (int i = 0; i < LANES; i += 4) UNROLL for (int h = 0; h < 2; h++) {
        const __m512d a = (__m512d)pair[i + h], b = (__m512d)pair[i + h + 2];
        row[i + 2 * h] = (vreal)_mm512_unpacklo_pd(a, b);
        row[i + 2 * h + 1] = (vreal)_mm512_unpackhi_pd(a, b);
    }
    UNROLL for (int i = 0; i < 4; i++) UNROLL for (int h = 0; h < LANES; h += 8) {
        pair[i + h] = SHUFFLE(row[i + h], row[i + h + 4], 0x88);
        pair[i + h + 4] = SHUFFLE(row[i + h], row[i + h + 4], 0xdd);
    }
    UNROLL for (int i = 0; i < LANES; i++) row[i] = pair[i];
#endif
    UNROLL for (int i = 0; i < LANES / 2; i++) {
        const vreal a = row[i], b = row[i + LANES / 2];
        pair[i] = SHUFFLE(a, b, 0x88);
        pair[i + LANES / 2] = SHUFFLE(a, b, 0xdd);
    }
#undef SHUFFLE
    UNROLL for (int i = 0; i < LANES; i++) row[i] = pair[i];
}
/* Two registers' sums in one, b's in the lanes with the bit `half`; a lane holds twice as much. */
INLINE vreal FN(fold)(const int half, vreal a, vreal b) {
    vint low, high;
    FN(exchange)(half, &low, &high);
    return MIX(a, low, b) + MIX(a, high, b);
}
/* Lane l: the sum of register l. */
INLINE vreal FN(totals)(vreal row[LANES]) {
    UNROLL for (int half = 1; half < LANES; half *= 2)
        UNROLL for (int i = 0; i < LANES; i += 2 * half)
            row[i] = FN(fold)(half, row[i], row[i + half]);
    return row[0];
}
/* Lane l: part of the sum of register l % 4. */
INLINE vreal FN(fold_four)(const vreal *row) {
    return FN(fold)(2, FN(fold)(1, row[0], row[1]), FN(fold)(1, row[2], row[3]));
}
/* Lane l of out[b]: the sum of register b of those that fold_four made row[l] from. */
INLINE void FN(unfold_four)(vreal row[LANES], vreal out[4]) {
    UNROLL for (int half = 4; half < LANES; half *= 2)
        UNROLL for (int i = 0; i < LANES; i += half / 2)
            row[i] = FN(fold)(half, row[i], row[i + half / 4]);
    UNROLL for (int b = 0; b < 4; b++) {
        const vint from = FN(quarters)[b], join = FN(joined);
        const vreal low = MIX(row[0], from, row[LANES / 4]);
        const vreal high = MIX(row[LANES / 2], from, row[3 * LANES / 4]);
        out[b] = MIX(low, join, high);
    }
}
#undef MIX
#else
#define HAS_TRANSPOSE 0
INLINE vreal FN(totals)(vreal row[LANES]) {
    real sum[LANES];
    for (int l = 0; l < LANES; l++) sum[l] = FN(total)(row[l]);
    return FN(load)(sum);
}
#endif

/* The first n < LANES numbers of a register; the others are 0 and their memory is not touched. */
#if defined(__AVX512F__) && REGISTER == 64
#if IS_DOUBLE
INLINE vreal FN(load_part)(const real *p, int n) {
    return (vreal)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
INLINE void FN(store_part)(real *p, vreal v, int n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}
#else
INLINE vreal FN(load_part)(const real *p, int n) {
    return (vreal)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void FN(store_part)(real *p, vreal v, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#endif
#else
INLINE vreal FN(load_part)(const real *p, int n) {
    real part[LANES] = {0};
    for (int i = 0; i < n; i++) part[i] = p[i];
    return FN(load)(part);
}
INLINE void FN(store_part)(real *p, vreal v, int n) {
    real part[LANES];
    FN(store)(part, v);
    for (int i = 0; i < n; i++) p[i] = part[i];
}
#endif

/* base[at[l]] for every lane, 0 where at[l] is negative: that memory is not touched. */
#if defined(__AVX512F__) && REGISTER == 64
#if IS_DOUBLE
INLINE vreal FN(gather)(const real *base, const int64_t *at) {
    const __m512i i = _mm512_loadu_si512(at);
    const __mmask8 inside = _mm512_cmpge_epi64_mask(i, _mm512_setzero_si512());
    return (vreal)_mm512_mask_i64gather_pd(_mm512_setzero_pd(), inside, i, base, 8);
}
#else
INLINE vreal FN(gather)(const real *base, const int64_t *at) {
    const __m512i i = _mm512_loadu_si512(at), j = _mm512_loadu_si512(at + 8);
    const __mmask8 k = _mm512_cmpge_epi64_mask(i, _mm512_setzero_si512());
    const __mmask8 m = _mm512_cmpge_epi64_mask(j, _mm512_setzero_si512());
    const __m256 low = _mm512_mask_i64gather_ps(_mm256_setzero_ps(), k, i, base, 4);
    const __m256 high = _mm512_mask_i64gather_ps(_mm256_setzero_ps(), m, j, base, 4);
    return (vreal)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
#endif
#else
INLINE vreal FN(gather)(const real *base, const int64_t *at) {
    real part[LANES];
    for (int l = 0; l < LANES; l++) part[l] = at[l] < 0 ? 0 : base[at[l]];
    return FN(load)(part);
}
#endif
