/* The kernels of the CPU backend as tables of functions: one table per instruction set and real
 * type, chosen when the module is imported. Cython orchestrates; these do the arithmetic. */
#ifndef PYDEFORM_SIMD_H
#define PYDEFORM_SIMD_H

#include <stdint.h>

enum { PYD_ZEROS = 0, PYD_CLIP_ZERO = 1, PYD_BORDER = 2 };
enum { PYD_RIGHT = 0, PYD_OPEN = 1, PYD_MEAN = 2 };
enum { PYD_NATIVE = 0, PYD_FLOAT16 = 1, PYD_BFLOAT16 = 2 }; /* how an array stores its reals */
enum { PYD_MAX_RANK = 3, PYD_MAX_CORNERS = 27 };

/* What is sampled: one image with its channels side by side. */
typedef struct {
    int rank, mode, kink;
    int length;       /* entries of one axis' stencil: 2, or 3 with kink "mean" */
    int corners;      /* length ** rank */
    int wide;         /* element indices need 64 bits */
    int scaled;       /* offsets are: o * scale + start, and slopes are those along o */
    int64_t size[PYD_MAX_RANK];
    int64_t step[PYD_MAX_RANK]; /* elements from one pixel to its neighbour */
    int64_t first;              /* element of the first pixel */
    double scale[PYD_MAX_RANK], start[PYD_MAX_RANK]; /* of offsets to pixels */
} pyd_field;

/* Where one tap of one offset group reads, for a tile of positions. Rows are `stride` long. */
typedef struct {
    int64_t stride;
    int64_t offset_row; /* elements from one axis to the next of the offsets it is made from */
    int differs;      /* some corner lies inside but has weight 0: `read` and `reach` differ */
    int adjacent;     /* corner 2k + 1 lies one element behind corner 2k, for every k */
    void *value;      /* [rank][length][stride] weights of each axis */
    void *slope;      /* [rank][length][stride] their derivatives */
    void *weight;     /* [corners][stride] products of the values */
    int64_t *read;    /* [corners][stride] element index; -1 where the weight is 0 */
    int64_t *reach;   /* [corners][stride] element index; -1 where outside the image */
} pyd_plan;

/* A matrix of reals anywhere: element (i, j) at data[i * row + j * column] (in elements). */
typedef struct {
    char *data;
    int storage;
    int64_t row, column;
} pyd_matrix;

/* Planes of an image, or of its gradient, where they lie: element i of channel c is at
 * data[c * channel + i - first]. Written are only those that are here: `count` elements from `first`
 * on; gradients are reals. */
typedef struct {
    char *data;
    int storage;
    int64_t channel, first, count;
} pyd_planes;

typedef struct {
    int lanes;  /* reals in a register */
    int panel;  /* columns of the register tile: the width of a packed panel */

    /* offset: [rank][offset_row] or NULL; base: [rank][stride] integers; shift: [rank]. */
    void (*plan)(const pyd_field *, const int64_t *base, const int64_t *shift, const void *offset,
                 int64_t count, int full, pyd_plan *);
    /* weight[b][t] (+)= scale[t] * prod over axes (slope where `axes` has the bit, else value). */
    void (*corner_weights)(const pyd_field *, const pyd_plan *, int axes, const void *scale,
                           int64_t count, int accumulate, void *weight);
    /* read = reach where weight != 0, else -1. */
    void (*corners_read)(const pyd_field *, const pyd_plan *, const void *weight, int64_t count,
                         int64_t *read);
    /* out[t] (+)= scale[t] * sum_b weight_b[t] * dots[b][t]; weights as in corner_weights. */
    void (*contract)(const pyd_field *, const pyd_plan *, int axes, const void *dots,
                     const void *scale, int64_t count, int accumulate, void *out);

    /* sum[t] = sum_b weight_b[t] * dots[b][t], and sums[a][t], `row` apart, the same with the slopes
     * of axis a, times scale[t]; either may be NULL. */
    void (*contract_all)(const pyd_field *, const pyd_plan *, const void *dots, const void *scale,
                         int64_t count, void *sum, void *sums, int64_t row);

    /* column[t][c] (+)= scale[t] * sum_b weight[b][t] * x[read[b][t] + c]; NULL scale is 1. */
    void (*blend)(int corners, int64_t stride, const int64_t *read, const void *weight,
                  const void *scale, const void *x, int64_t channels, int64_t count,
                  const void *zeros, int accumulate, void *column, int64_t column_row);
    /* dots[b][t] = sum_c g[t][c] * x[reach[b][t] + c] */
    void (*dots)(int corners, int64_t stride, const int64_t *reach, const void *g, int64_t g_row,
                 const void *x, int64_t channels, int64_t count, const void *zeros, void *dots);
    /* x[read[b][t] + c] += weight[b][t] * (scale[t] * g[t][c]) */
    void (*scatter)(int corners, int64_t stride, const int64_t *read, const void *weight,
                    const void *scale, const void *g, int64_t g_row, int64_t channels,
                    int64_t count, void *x, void *trash);
    /* blend, dots and scatter of one tap in one pass over the corners. */
    void (*sweep)(int corners, const pyd_plan *, const void *scale, const void *g, int64_t g_row,
                  const void *x, int64_t channels, int64_t count, const void *zeros, void *trash,
                  void *column, int64_t column_row, void *grad_x, void *dots);

    /* out[t][c] (+)= sum over taps of scale[tap][t] * sum_b weight[b][t] * x[read[b][t] + c]. The
     * plans of the taps lie `step` corners apart, and the scales `stride`. */
    void (*weigh)(int corners, int64_t taps, int64_t step, const pyd_plan *, const void *scale,
                  const void *x, int64_t channels, int64_t count, const void *zeros,
                  int accumulate, void *out, int64_t out_row);
    /* dots and scatter of all those taps; without dots when x is NULL, without scatter when grad_x
     * is. dots: [tap][corner][stride], `step` between taps. */
    void (*weigh_back)(int corners, int64_t taps, int64_t step, const pyd_plan *,
                       const void *scale, const void *g, int64_t g_row, const void *x,
                       int64_t channels, int64_t count, const void *zeros, void *grad_x,
                       void *dots);

    /* Along positions, from images as they lie: column[c * column_row + t] (+)= what is blend's
     * column[t][c]; and sweep likewise, with rows of positions `row` apart. column, x (then neither
     * column nor dots are written) and grad may be NULL. `accumulate` is for the column alone. */
    void (*gather_blend)(int corners, const pyd_plan *, const void *scale, const pyd_planes *x,
                         int64_t channels, int64_t count, int accumulate, void *column,
                         int64_t column_row);
    void (*gather_sweep)(int corners, const pyd_plan *, const void *scale, const void *g,
                         int64_t row, const pyd_planes *x, int64_t channels, int64_t count,
                         int accumulate, void *column, const pyd_planes *grad, void *dots);

    /* out[i][j] (+)= sum_k a[i * a_row + k * a_depth] * b[panel(j)][k * b_depth + j % panel];
     * rows of out and b are padded to whole registers; b_panel: distance between panels. */
    void (*product)(int64_t rows, int64_t columns, int64_t depth, const void *a, int64_t a_row,
                    int64_t a_depth, const void *b, int64_t b_depth, int64_t b_panel, void *out,
                    int64_t out_row, int accumulate);

    /* Groups of one input channel: out[i][j] (+)= a[i][j] * b[j]; sum[j] += sum_i a[i][j] * b[i][j].
     * Rows of out and sum are padded to whole registers. */
    void (*multiply_each)(int64_t rows, int64_t columns, const void *a, int64_t a_row,
                          const void *b, void *out, int64_t out_row, int accumulate);
    void (*multiply_down)(int64_t rows, int64_t columns, const void *a, int64_t a_row,
                          const void *b, int64_t b_row, void *sum);

    /* to[i * to_row + j] = from(i, j); and back, adding bias[j] unless NULL. Rows of `from` may
     * lie backwards. */
    void (*load)(const pyd_matrix *from, int64_t rows, int64_t columns, void *to, int64_t to_row);
    void (*store)(const void *from, int64_t from_row, int64_t rows, int64_t columns,
                  const void *bias, const pyd_matrix *to);
    /* out[i] += sum_j a[i][j] */
    void (*row_sums)(const pyd_matrix *from, int64_t rows, int64_t columns, void *out);
    /* out[i] += scale[i] * a[i]; NULL scale is 1. */
    void (*add)(const void *a, const void *scale, int64_t count, void *out);
    /* out[i][j] += a[i] */
    void (*add_rows)(const void *a, int64_t rows, int64_t columns, void *out, int64_t row);
} pyd_kernels;

extern const pyd_kernels pyd_baseline_f32, pyd_baseline_f64;
#if defined(__x86_64__) && defined(__GNUC__)
#define PYD_X86 1
extern const pyd_kernels pyd_avx2_f32, pyd_avx2_f64, pyd_avx512_f32, pyd_avx512_f64;
#endif

/* The highest level this processor runs: 0 baseline, 1 AVX2 with FMA, 2 AVX-512. */
static inline int pyd_best_level(void) {
#ifdef PYD_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* Ask for a cache line that will be written, into the second-level cache. */
static inline void pyd_expect(const void *line) {
#ifdef __GNUC__
    __builtin_prefetch(line, 1, 2);
#else
    (void)line;
#endif
}

static inline const pyd_kernels *pyd_table(int level, int doubles) {
#ifdef PYD_X86
    if (level == 2) return doubles ? &pyd_avx512_f64 : &pyd_avx512_f32;
    if (level == 1) return doubles ? &pyd_avx2_f64 : &pyd_avx2_f32;
#endif
    (void)level;
    return doubles ? &pyd_baseline_f64 : &pyd_baseline_f32;
}

#endif
