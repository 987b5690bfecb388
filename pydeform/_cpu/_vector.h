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
INLINE void FN(transpose)(vreal row[LANES]) {
    UNROLL for (int half = 1; half < LANES; half *= 2) { /* swap off-diagonal blocks */
        vint low, high; /* lane l of a pair: of the first register, or LANES + l of the second */
        UNROLL for (int l = 0; l < LANES; l++) {
            low[l] = l & half ? LANES + (l ^ half) : l;
            high[l] = l & half ? LANES + l : l ^ half;
        }
        UNROLL for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            const vreal a = row[i], b = row[i + half];
            row[i] = MIX(a, low, b);
            row[i + half] = MIX(a, high, b);
        }
    }
}
#undef MIX
#else
#define HAS_TRANSPOSE 0
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
