/* Coordinates to stencils, for a whole register of positions at a time (integer and fraction apart).
 *
 * Included once per index width: PLAN names the function, ivec is the vector of indices,
 * FROM_REAL / FROM_LONG convert into it, INDEX_TO_REAL back, INDEX_MASK turns a comparison of
 * reals into its masks, REAL_MASK the other way round, LIMIT bounds |offset| beyond any image. */

INLINE void JOIN(PLAN, body)(const int rank, const int length, const int full,
                             const pyd_field *field, const int64_t *base, const int64_t *shift,
                             const real *offset, int64_t count, pyd_plan *plan) {
    const int64_t stride = plan->stride;
    const vreal zero = FN(all)(0), one = FN(all)(1), half = FN(all)((real)0.5);
    const int mode = field->mode, mean = length == 3;
    const int second = rank > 1 ? length : 1, third = rank > 2 ? length : 1;
    vint differs = FN(all_int)(0);
    for (int64_t t = 0; t < count; t += LANES) {
        vreal value[PYD_MAX_RANK][3], slope[PYD_MAX_RANK][3];
        ivec place[PYD_MAX_RANK][3]; /* elements, 0 where not inside */
        vint inside[PYD_MAX_RANK][3];
        const vint live = FN(first_lanes)(count - t); /* the last register may be part empty */
        vint shut = FN(all_int)(0); /* kink "open": the derivatives of this sample are off */
        UNROLL for (int a = 0; a < rank; a++) {
            const ivec size = ALL_INDEX(field->size[a]), last = ALL_INDEX(field->size[a] - 1);
            const ivec step = ALL_INDEX(field->step[a]), nought = ALL_INDEX(0);
            vreal o = offset ? FN(load)(offset + a * plan->offset_row + t) : zero;
            if (field->scaled)
                o = o * FN(all)((real)field->scale[a]) + FN(all)((real)field->start[a]);
            /* Not finite: decided here, in floating point, before any cast. */
            const vint odd = NOTEQUAL(o - o, zero);
            const vreal fill = FN(keep)(NOTEQUAL(o, o), o); /* NaN stays, Inf counts as 0 */
            o = FN(keep)(~odd, o);
            o = FN(pick)(LESS(o, FN(all)(-LIMIT)), FN(all)(-LIMIT), o);
            o = FN(pick)(LESS(FN(all)(LIMIT), o), FN(all)(LIMIT), o);
            const ivec cut = FROM_REAL(o);
            const vreal cut_real = INDEX_TO_REAL(cut);
            const vint above = LESS(o, cut_real); /* truncated upwards: floor is one less */
            const vreal f = o - (cut_real - FN(keep)(above, one));
            ivec i = FROM_LONG(FN(load_long)(base + a * stride + t)) + ALL_INDEX(shift[a]) + cut +
                     INDEX_MASK(above); /* a mask is -1 */
            const vint whole = EQUAL(f, zero);
            ivec in0 = LESS_INDEX(nought - 1, i) & LESS_INDEX(i, size), in1;
            vreal v0 = one - f;
            vint curved; /* the interpolant has a slope right of here */
            const ivec first = i;
            if (mode == PYD_ZEROS) {
                in1 = LESS_INDEX(nought - 2, i) & LESS_INDEX(i, last);
                curved = ~FN(all_int)(0);
            } else {
                in1 = LESS_INDEX(nought - 1, i) & LESS_INDEX(i, last);
                curved = REAL_MASK(in1);
                v0 = FN(pick)(curved, v0, one);
                if (mode == PYD_BORDER) { /* clamp to the edge; there the slope is 0 */
                    in0 = ~nought;
                    i = (i & LESS_INDEX(nought, i));
                    i = (i & LESS_INDEX(i, last)) | (last & ~LESS_INDEX(i, last));
                }
            }
            if (field->kink == PYD_OPEN) {
                const vint at_minus_one = REAL_MASK(EQUAL_INDEX(first, nought - 1)) & whole;
                shut |= ~odd & (at_minus_one | REAL_MASK(LESS_INDEX(first, nought - 1)) |
                                ~REAL_MASK(LESS_INDEX(first, size)));
            }
            const vint finite = ~odd, in0r = REAL_MASK(in0) & finite, in1r = REAL_MASK(in1) & finite;
            inside[a][0] = in0r;
            inside[a][1] = in1r;
            const ivec origin = ALL_INDEX(a ? 0 : field->first);
            place[a][0] = (i & in0) * step + origin;
            place[a][1] = ((i + 1) & in1) * step + origin;
            value[a][0] = FN(pick)(odd, fill, FN(keep)(in0r, v0));
            value[a][1] = FN(pick)(odd, fill, FN(keep)(in1r, f));
            vreal s0 = FN(keep)(curved, -one), s1 = FN(keep)(curved, one);
            if (mean) {
                /* On a kink half of the slope on either side: {i-1: -l/2, i: (l-r)/2, i+1: r/2}. */
                const vint before = mode == PYD_ZEROS ? ~FN(all_int)(0)
                                                      : REAL_MASK(LESS_INDEX(nought, first) &
                                                                  LESS_INDEX(first, size));
                const ivec in2 = LESS_INDEX(nought, i) & LESS_INDEX(i - 1, size);
                const vint in2r = REAL_MASK(in2) & finite;
                const vreal l = FN(keep)(before, half), r = FN(keep)(curved, half);
                s0 = FN(pick)(whole, l - r, s0);
                s1 = FN(pick)(whole, r, s1);
                inside[a][2] = in2r;
                place[a][2] = ((i - 1) & in2) * step + origin;
                value[a][2] = FN(pick)(odd, fill, zero);
                slope[a][2] = FN(pick)(odd, fill, FN(keep)(in2r & whole, -l));
            }
            slope[a][0] = FN(pick)(odd, fill, FN(keep)(in0r, s0));
            slope[a][1] = FN(pick)(odd, fill, FN(keep)(in1r, s1));
            if (full && field->scaled) /* by what an offset moves the sample */
                UNROLL for (int l = 0; l < length; l++)
                    slope[a][l] *= FN(all)((real)field->scale[a]);
        }
        if (full) {
            real *values = (real *)plan->value + t, *slopes = (real *)plan->slope + t;
            UNROLL for (int a = 0; a < rank; a++) UNROLL for (int l = 0; l < length; l++) {
                FN(store)(values + (a * length + l) * stride, value[a][l]);
                /* times 0, not 0: a NaN coordinate stays NaN */
                FN(store)(slopes + (a * length + l) * stride,
                          FN(pick)(shut, slope[a][l] * zero, slope[a][l]));
            }
        }
        UNROLL for (int y = 0; y < length; y++)
        UNROLL for (int x = 0; x < second; x++)
        UNROLL for (int z = 0; z < third; z++) {
            vreal w = value[0][y];
            vint in = inside[0][y];
            ivec at = place[0][y];
            int corner = y;
            if (rank > 1) {
                w *= value[1][x], in &= inside[1][x], at += place[1][x];
                corner = corner * length + x;
            }
            if (rank > 2) {
                w *= value[2][z], in &= inside[2][z], at += place[2][z];
                corner = corner * length + z;
            }
            const vint nonzero = NOTEQUAL(w, zero), read = in & nonzero;
            const int64_t row = corner * stride + t;
            FN(store)((real *)plan->weight + row, w);
            FN(store_long)(plan->read + row, TO_LONG(at | ~INDEX_MASK(read)));
            if (full) {
                FN(store_long)(plan->reach + row, TO_LONG(at | ~INDEX_MASK(in)));
                differs |= in & ~nonzero & live;
            }
        }
    }
    plan->differs = full && FN(any)(differs);
}

static void PLAN(const pyd_field *field, const int64_t *base, const int64_t *shift,
                 const void *offset, int64_t count, int full, pyd_plan *plan) {
#define CASE(RANK, LENGTH)                                                                        \
    if (field->rank == RANK && field->length == LENGTH) {                                         \
        if (full)                                                                                 \
            JOIN(PLAN, body)(RANK, LENGTH, 1, field, base, shift, offset, count, plan);           \
        else                                                                                      \
            JOIN(PLAN, body)(RANK, LENGTH, 0, field, base, shift, offset, count, plan);           \
        return;                                                                                   \
    }
    CASE(2, 2) CASE(1, 2) CASE(3, 2) CASE(2, 3) CASE(1, 3) CASE(3, 3)
#undef CASE
}

#undef PLAN
#undef ivec
#undef ALL_INDEX
#undef FROM_REAL
#undef FROM_LONG
#undef TO_LONG
#undef INDEX_TO_REAL
#undef INDEX_MASK
#undef REAL_MASK
#undef LESS_INDEX
#undef EQUAL_INDEX
#undef LIMIT
