/* The register tile: out[rows][columns] (+)= a[rows][depth] * b[depth][columns], with b in panels
 * of a few registers' width. Included by _kernels.h once per real type.
 *
 * A full tile is ROWS x PANEL registers of sums; a narrower last panel takes more rows, so that
 * there are always enough independent sums to hide the latency of the multiply-add. */

#if REGISTER == 64
#define PANEL 4 /* registers across; 32 of them in all */
#define ROWS_OF(width) ((width) == 4 ? 6 : (width) == 3 ? 8 : (width) == 2 ? 12 : 14)
#else
#define PANEL 2 /* 16 registers in all */
#define ROWS_OF(width) ((width) == 2 ? 6 : 10)
#endif
#define PREFETCH(at) __builtin_prefetch(at, 0, 2)
#define DEPTH_BLOCK 256 /* of a panel that stays in the nearest caches while all rows pass */

/* Sums start from zero and meet those that are there at the end: a tile that began by loading them
 * would wait for the second-level cache.
 *
 * What comes next of b lies further away than the second-level cache, and its first use would wait
 * for it: every step of a tile asks for `ahead_step` bytes of it. */
INLINE void FN(tile)(const int rows, const int width, int64_t depth, const real *a, int64_t a_row,
                     int64_t a_depth, const real *b, int64_t b_depth, real *out, int64_t out_row,
                     int accumulate, const char *ahead, int64_t ahead_step) {
    vreal sum[14][PANEL];
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < width; j++)
        sum[i][j] = FN(all)(0);
    for (int64_t k = 0; k < depth; k++) {
        vreal panel[PANEL];
        PREFETCH(ahead + k * ahead_step);
        UNROLL for (int j = 0; j < width; j++) panel[j] = FN(load)(b + k * b_depth + j * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const vreal x = FN(all)(a[i * a_row + k * a_depth]);
            UNROLL for (int j = 0; j < width; j++) sum[i][j] += x * panel[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < width; j++) {
        real *to = out + i * out_row + j * LANES;
        FN(store)(to, accumulate ? FN(load)(to) + sum[i][j] : sum[i][j]);
    }
}

#define TILE(ROWS, WIDTH)                                                                       \
    case ROWS:                                                                                  \
        FN(tile)(ROWS, WIDTH, depth, a, a_row, a_depth, b, b_depth, out, out_row, accumulate,   \
                 ahead, ahead_step);                                                            \
        break;

#define STRIP(WIDTH, TILES)                                                                     \
    static void JOIN(FN(strip), WIDTH)(int64_t rows, int64_t depth, const real *a,              \
                                       int64_t a_row, int64_t a_depth, const real *b,           \
                                       int64_t b_depth, real *out, int64_t out_row,             \
                                       int accumulate, const char *ahead, int64_t ahead_step) { \
        while (rows > 0) {                                                                      \
            const int64_t n = rows < ROWS_OF(WIDTH) ? rows : ROWS_OF(WIDTH);                    \
            switch (n) { TILES }                                                                \
            a += n * a_row;                                                                     \
            out += n * out_row;                                                                 \
            rows -= n;                                                                          \
            ahead += depth * ahead_step;                                                        \
        }                                                                                       \
    }

#define TILES6(W) TILE(1, W) TILE(2, W) TILE(3, W) TILE(4, W) TILE(5, W) TILE(6, W)
#define TILES8(W) TILES6(W) TILE(7, W) TILE(8, W)
#define TILES10(W) TILES8(W) TILE(9, W) TILE(10, W)
#define TILES12(W) TILES10(W) TILE(11, W) TILE(12, W)
#define TILES14(W) TILES12(W) TILE(13, W) TILE(14, W)

#if PANEL == 4
STRIP(4, TILES6(4))
STRIP(3, TILES8(3))
STRIP(2, TILES12(2))
STRIP(1, TILES14(1))
#else
STRIP(2, TILES6(2))
STRIP(1, TILES10(1))
#endif

static void FN(product)(int64_t rows, int64_t columns, int64_t depth, const void *a_,
                        int64_t a_row, int64_t a_depth, const void *b_, int64_t b_depth,
                        int64_t b_panel, void *out_, int64_t out_row, int accumulate) {
    const real *a = a_, *b = b_;
    real *out = out_;
    if (depth == 0 && !accumulate)
        for (int64_t i = 0; i < rows; i++) memset(out + i * out_row, 0, columns * sizeof(real));
    for (int64_t k = 0; k < depth; k += DEPTH_BLOCK) {
        const int64_t deep = depth - k < DEPTH_BLOCK ? depth - k : DEPTH_BLOCK;
        const real *ak = a + k * a_depth;
        for (int64_t j = 0, q = 0; j < columns; j += PANEL * LANES, q++) {
            const real *bk = b + q * b_panel + k * b_depth;
            const int64_t tiles = rows / ROWS_OF(PANEL) + 1;
            const char *ahead = (const char *)(j + PANEL * LANES < columns ? bk + b_panel
                                               : k + deep < depth ? b + (k + deep) * b_depth
                                                                  : bk + deep * b_depth);
            const int64_t ahead_step =
                b_depth == PANEL * LANES ? PANEL * REGISTER / tiles + 1 : 0;
            const int64_t left = (columns - j + LANES - 1) / LANES;
#define CALL(WIDTH)                                                                             \
    JOIN(FN(strip), WIDTH)(rows, deep, ak, a_row, a_depth, bk, b_depth, out + j, out_row,       \
                           accumulate || k > 0, ahead, ahead_step)
#if PANEL == 4
            if (left >= 4) CALL(4);
            else if (left == 3) CALL(3);
            else
#endif
            if (left >= 2) CALL(2);
            else CALL(1);
#undef CALL
        }
    }
}

/* Where a group has one input channel there is no depth to sum over: elements meet elements. */
static void FN(multiply_each)(int64_t rows, int64_t columns, const void *a_, int64_t a_row,
                              const void *b_, void *out_, int64_t out_row, int accumulate) {
    const real *b = b_;
    for (int64_t i = 0; i < rows; i++) {
        const real *a = (const real *)a_ + i * a_row;
        real *out = (real *)out_ + i * out_row;
        for (int64_t j = 0; j < columns; j += LANES) {
            const vreal p = FN(load)(a + j) * FN(load)(b + j);
            FN(store)(out + j, accumulate ? FN(load)(out + j) + p : p);
        }
    }
}

static void FN(multiply_down)(int64_t rows, int64_t columns, const void *a_, int64_t a_row,
                              const void *b_, int64_t b_row, void *sum_) {
    const real *a = a_, *b = b_;
    for (int64_t j = 0; j < columns; j += LANES) {
        vreal sum = FN(load)((real *)sum_ + j);
        for (int64_t i = 0; i < rows; i++)
            sum += FN(load)(a + i * a_row + j) * FN(load)(b + i * b_row + j);
        FN(store)((real *)sum_ + j, sum);
    }
}

#undef STRIP
#undef TILE
#undef TILES6
#undef TILES8
#undef TILES10
#undef TILES12
#undef TILES14
#undef ROWS_OF
#undef PREFETCH
#undef DEPTH_BLOCK
