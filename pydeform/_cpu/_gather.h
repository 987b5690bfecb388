/* The same for few channels: every loop runs along positions and gathers its corners, so that the
 * registers are full however few the channels. Images are read and gradients written where they
 * lie, in any layout. Columns are rows of positions. Included by _kernels.h once per real type. */

/* All corners of a register of positions, from indices that start at `at`. */
INLINE void FN(gather_corners)(const int corners, const pyd_plan *plan, const int64_t *at,
                               const real *x, vreal out[]) {
    const int64_t stride = plan->stride;
    if (corners % 2) {
        UNROLL for (int b = 0; b < corners; b++) out[b] = FN(gather)(x, at + b * stride);
        return;
    }
    UNROLL for (int b = 0; b < corners; b += 2)
        FN(gather_pair)(x, at + b * stride, at + (b + 1) * stride, plan->adjacent, &out[b],
                        &out[b + 1]);
}

INLINE void FN(gather_blend_body)(const int corners, const pyd_plan *plan, const real *scale,
                                  const real *x, int64_t x_channel, int64_t channels,
                                  int64_t count, real *column, int64_t column_row) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t += LANES) {
        vreal w[PYD_MAX_CORNERS];
        const vreal s = scale ? FN(load)(scale + t) : FN(all)(1);
        UNROLL for (int b = 0; b < corners; b++)
            w[b] = FN(load)((const real *)plan->weight + b * stride + t);
        for (int64_t c = 0; c < channels; c++) {
            const real *from = x + c * x_channel;
            vreal x_at[PYD_MAX_CORNERS], sum;
            FN(gather_corners)(corners, plan, plan->read + t, from, x_at);
            sum = w[0] * x_at[0];
            UNROLL for (int b = 1; b < corners; b++) sum += w[b] * x_at[b];
            FN(store)(column + c * column_row + t, s * sum);
        }
    }
}

static void FN(gather_blend)(int corners, const pyd_plan *plan, const void *scale, const void *x,
                             int64_t x_channel, int64_t channels, int64_t count, void *column,
                             int64_t column_row) {
    BY_CORNERS(FN(gather_blend_body), plan, scale, x, x_channel, channels, count, column,
               column_row)
}

INLINE void FN(gather_sweep_body)(const int corners, const pyd_plan *plan, const real *scale,
                                  const real *g, int64_t row, const real *x, int64_t x_channel,
                                  int64_t channels, int64_t count, real *column, real *grad_x,
                                  real *dots) {
    const int64_t stride = plan->stride;
    for (int64_t t = 0; t < count; t += LANES) {
        const int64_t live = count - t < LANES ? count - t : LANES;
        vreal w[PYD_MAX_CORNERS], sum[PYD_MAX_CORNERS];
        const vreal s = scale ? FN(load)(scale + t) : FN(all)(1);
        UNROLL for (int b = 0; b < corners; b++) {
            w[b] = FN(load)((const real *)plan->weight + b * stride + t);
            sum[b] = FN(all)(0);
        }
        for (int64_t c = 0; c < channels; c++) {
            const vreal G = FN(load)(g + c * row + t), sG = s * G;
            vreal x_at[PYD_MAX_CORNERS], blended;
            FN(gather_corners)(corners, plan, plan->reach + t, x + c * x_channel, x_at);
            UNROLL for (int b = 0; b < corners; b++) sum[b] += G * x_at[b];
            if (plan->differs)
                FN(gather_corners)(corners, plan, plan->read + t, x + c * x_channel, x_at);
            blended = w[0] * x_at[0];
            UNROLL for (int b = 1; b < corners; b++) blended += w[b] * x_at[b];
            if (column) FN(store)(column + c * row + t, s * blended);
            if (!grad_x) continue;
            real *to = grad_x + c * x_channel;
            UNROLL for (int b = 0; b < corners; b++) {
                const int64_t *at = plan->read + b * stride + t;
                real part[LANES];
                FN(store)(part, w[b] * sG);
                for (int64_t l = 0; l < live; l++)
                    if (at[l] >= 0) to[at[l]] += part[l];
            }
        }
        UNROLL for (int b = 0; b < corners; b++) FN(store)(dots + b * stride + t, sum[b]);
    }
}

static void FN(gather_sweep)(int corners, const pyd_plan *plan, const void *scale, const void *g,
                             int64_t row, const void *x, int64_t x_channel, int64_t channels,
                             int64_t count, void *column, void *grad_x, void *dots) {
    BY_CORNERS(FN(gather_sweep_body), plan, scale, g, row, x, x_channel, channels, count, column,
               grad_x, dots)
}

#undef BY_CORNERS
