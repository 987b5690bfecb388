/* All kernels for one real type, and their table. The including file sets ISA (a name), REGISTER
 * (bytes), REAL, MASK_INT (the integer as wide as REAL), SUFFIX and IS_DOUBLE. */

#include "_vector.h"

#include "_copy.h"
#include "_product.h"
#include "_sample.h"
#include "_weighted.h"
#include "_gather.h"

/* Indices as wide as the real: 32 bits for float, which serves images below 2**29 elements. */
#define PLAN FN(plan_narrow)
#define ivec vint
#define ALL_INDEX(i) FN(all_int)((MASK_INT)(i))
#define FROM_REAL(r) TO_INT(r)
#define FROM_LONG(i) LONG_TO_INT(i)
#define TO_LONG(i) INT_TO_LONG(i)
#define INDEX_TO_REAL(i) TO_REAL(i)
#define INDEX_MASK(m) (m)
#define REAL_MASK(m) (m)
#define LESS_INDEX(a, b) LESS(a, b)
#define EQUAL_INDEX(a, b) EQUAL(a, b)
#define LIMIT (IS_DOUBLE ? (real)0x1p61 : (real)0x1p30)
#include "_plan.h"

#if !IS_DOUBLE
#define PLAN FN(plan_wide)
#define ivec vlong
#define ALL_INDEX(i) FN(all_long)(i)
#define FROM_REAL(r) REAL_TO_LONG(r)
#define FROM_LONG(i) (i)
#define TO_LONG(i) (i)
#define INDEX_TO_REAL(i) LONG_TO_REAL(i)
#define INDEX_MASK(m) INT_TO_LONG(m)
#define REAL_MASK(m) LONG_TO_INT(m)
#define LESS_INDEX(a, b) LESS(a, b)
#define EQUAL_INDEX(a, b) EQUAL(a, b)
#define LIMIT ((real)0x1p61)
#include "_plan.h"

static void FN(plan)(const pyd_field *field, const int64_t *base, const int64_t *shift,
                     const void *offset, int64_t count, int full, pyd_plan *plan) {
    if (field->wide)
        FN(plan_wide)(field, base, shift, offset, count, full, plan);
    else
        FN(plan_narrow)(field, base, shift, offset, count, full, plan);
}
#else
#define plan_f64 plan_narrow_f64
#endif

const pyd_kernels JOIN(ISA, SUFFIX) = {
    LANES, PANEL * LANES, FN(plan), FN(corner_weights), FN(corners_read), FN(contract),
    FN(contract_all), FN(blend), FN(dots), FN(scatter), FN(sweep), FN(weigh), FN(weigh_back),
    FN(gather_blend), FN(gather_sweep), FN(product),
    FN(multiply_each), FN(multiply_down), FN(load_matrix), FN(store_matrix),
    FN(row_sums), FN(add), FN(add_rows),
};

#undef JOIN_
#undef JOIN
#undef FN
#undef real
#undef vreal
#undef vint
#undef vlong
#undef INLINE
#undef NOINLINE
#undef UNROLL
#undef LANES
#undef LESS
#undef EQUAL
#undef NOTEQUAL
#undef AS_INT
#undef AS_REAL
#undef TO_INT
#undef TO_REAL
#undef INT_TO_LONG
#undef LONG_TO_INT
#undef LONG_TO_REAL
#undef REAL_TO_LONG
#undef PANEL
#undef HAS_TRANSPOSE
#undef REAL
#undef MASK_INT
#undef SUFFIX
#undef IS_DOUBLE
