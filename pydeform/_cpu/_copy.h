/* The edges: arrays of any storage and layout in and out of rows of reals. Included by _kernels.h
 * once per real type; for double only the native storage exists. */

INLINE real FN(fetch)(const char *data, const int storage, int64_t i) {
    (void)storage;
#if !IS_DOUBLE
    if (storage == PYD_FLOAT16) return pyd_from_float16(((const uint16_t *)data)[i]);
    if (storage == PYD_BFLOAT16) return pyd_from_bfloat16(((const uint16_t *)data)[i]);
#endif
    return ((const real *)data)[i];
}

INLINE void FN(put)(char *data, const int storage, int64_t i, real x) {
    (void)storage;
#if !IS_DOUBLE
    if (storage == PYD_FLOAT16) {
        ((uint16_t *)data)[i] = pyd_to_float16(x);
        return;
    }
    if (storage == PYD_BFLOAT16) {
        ((uint16_t *)data)[i] = pyd_to_bfloat16(x);
        return;
    }
#endif
    ((real *)data)[i] = x;
}

#if HAS_TRANSPOSE
/* Rows to columns by squares of one register's size: those at `from` turn into those at `to`, and
 * what lies AHEAD of `next` is asked for. Functions of their own, since a compiler that sees the
 * loop around them keeps 32 pointers, in memory. */
enum { FN(AHEAD) = 256 / sizeof(real), FN(ROWS_ALL) = 64 * LANES };

NOINLINE void FN(turn)(const real *from, int64_t from_row, const real *bias, real *to,
                       int64_t to_row, const real *next, int64_t next_row) {
    vreal square[LANES];
    UNROLL for (int l = 0; l < LANES; l++) {
        square[l] = FN(load)(from + l * from_row);
        /* into the second-level cache: strides of powers of two leave little room in the first */
        __builtin_prefetch(next + l * next_row, 0, 2);
    }
    if (bias) UNROLL for (int l = 0; l < LANES; l++) square[l] += FN(load)(bias);
    FN(transpose)(square);
    UNROLL for (int l = 0; l < LANES; l++) FN(store)(to + l * to_row, square[l]);
}

/* The same at an edge, where fewer rows or columns are left than registers hold. */
NOINLINE void FN(turn_part)(const real *from, int64_t from_row, int64_t rows, int64_t columns,
                            const real *bias, real *to, int64_t to_row) {
    const int down = rows < LANES ? (int)rows : LANES;
    const int across = columns < LANES ? (int)columns : LANES;
    const vreal plus = bias ? FN(load_part)(bias, across) : FN(all)(0);
    vreal square[LANES];
    UNROLL for (int l = 0; l < LANES; l++) {
        square[l] = l < down ? FN(load_part)(from + l * from_row, across) : FN(all)(0);
        if (bias) square[l] += plus;
    }
    FN(transpose)(square);
    UNROLL for (int l = 0; l < LANES; l++)
        if (l < across) FN(store_part)(to + l * to_row, square[l], down);
}

/* Columns lie in rows of memory. All columns of some rows come before the next rows, so that what
 * is channels-last is one stream; no hardware follows the many on the other side. */
INLINE void FN(load_turned)(const real *from, int64_t column, int64_t rows, int64_t columns,
                            real *to, int64_t to_row) {
    const int64_t whole_rows = rows / LANES * LANES, whole = columns / LANES * LANES;
    const int in_order = rows <= FN(ROWS_ALL) && column <= 2 * rows; /* nearly all that is there */
    if (in_order)
        for (int64_t j = 0; j < whole; j += LANES)
            for (int64_t i = 0; i < whole_rows; i += LANES) {
                const real *square = from + i + j * column;
                FN(turn)(square, column, NULL, to + i * to_row + j, to_row,
                         square + 2 * LANES * column, column);
            }
    else
        for (int64_t i = 0; i < whole_rows; i += LANES)
            for (int64_t j = 0; j < whole; j += LANES) {
                const real *square = from + i + j * column;
                FN(turn)(square, column, NULL, to + i * to_row + j, to_row, square + FN(AHEAD),
                         column);
            }
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = i < whole_rows ? whole : 0; j < columns; j += LANES)
            FN(turn_part)(from + i + j * column, column, columns - j, rows - i, NULL,
                          to + i * to_row + j, to_row);
}

INLINE void FN(store_turned)(const real *from, int64_t from_row, int64_t rows, int64_t columns,
                             const real *bias, real *to, int64_t column) {
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < columns; j += LANES) {
            const real *square = from + i * from_row + j, *plus = bias ? bias + j : NULL;
            real *there = to + j * column + i;
            if (i + LANES <= rows && j + LANES <= columns)
                FN(turn)(square, from_row, plus, there, column, there + FN(AHEAD), column);
            else
                FN(turn_part)(square, from_row, rows - i, columns - j, plus, there, column);
        }
}
#endif

/* As memcpy, which takes as long to be called as to copy the few registers of a pixel. */
INLINE void FN(copy_row)(real *to, const real *from, int64_t count) {
    int64_t i = 0;
    if (count <= 8 * LANES)
        for (; i + LANES <= count; i += LANES) FN(store)(to + i, FN(load)(from + i));
    if (i < count) memcpy(to + i, from + i, (count - i) * sizeof(real));
}

enum { FN(BLOCK) = 64 / sizeof(real) }; /* one cache line each way when transposing */

INLINE void FN(load_body)(const int storage, const pyd_matrix *from, int64_t rows,
                          int64_t columns, real *to, int64_t to_row) {
    const int64_t row = from->row, column = from->column;
    if (column == 1) {
        for (int64_t i = 0; i < rows; i++)
            if (storage == PYD_NATIVE)
                FN(copy_row)(to + i * to_row, (const real *)from->data + i * row, columns);
            else for (int64_t j = 0; j < columns; j++)
                to[i * to_row + j] = FN(fetch)(from->data, storage, i * row + j);
        return;
    }
#if HAS_TRANSPOSE
    if (row == 1 && storage == PYD_NATIVE) {
        FN(load_turned)((const real *)from->data, column, rows, columns, to, to_row);
        return;
    }
#endif
    for (int64_t j0 = 0; j0 < columns; j0 += FN(BLOCK)) {
        const int64_t j1 = j0 + FN(BLOCK) < columns ? j0 + FN(BLOCK) : columns;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = j0; j < j1; j++)
                to[i * to_row + j] = FN(fetch)(from->data, storage, i * row + j * column);
    }
}

INLINE void FN(store_body)(const int storage, const real *from, int64_t from_row, int64_t rows,
                           int64_t columns, const real *bias, const pyd_matrix *to) {
    const int64_t row = to->row, column = to->column;
#if HAS_TRANSPOSE
    if (row == 1 && column != 1 && storage == PYD_NATIVE) {
        FN(store_turned)(from, from_row, rows, columns, bias, (real *)to->data, column);
        return;
    }
#endif
    if (column == 1 && !bias && storage == PYD_NATIVE) {
        for (int64_t i = 0; i < rows; i++)
            FN(copy_row)((real *)to->data + i * row, from + i * from_row, columns);
        return;
    }
    for (int64_t j0 = 0; j0 < columns; j0 += FN(BLOCK)) {
        const int64_t j1 = j0 + FN(BLOCK) < columns ? j0 + FN(BLOCK) : columns;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = j0; j < j1; j++) {
                const real x = from[i * from_row + j];
                FN(put)(to->data, storage, i * row + j * column, bias ? x + bias[j] : x);
            }
    }
}

#if IS_DOUBLE
#define BY_STORAGE(CALL) CALL(PYD_NATIVE)
#else
#define BY_STORAGE(CALL)                 \
    if (STORAGE == PYD_FLOAT16)          \
        CALL(PYD_FLOAT16)                \
    else if (STORAGE == PYD_BFLOAT16)    \
        CALL(PYD_BFLOAT16)               \
    else                                 \
        CALL(PYD_NATIVE)
#endif

/* Rows that lie backwards, one element apart, as rows that lie forwards; returns the first one. */
INLINE void *FN(turn_round)(pyd_matrix *m, int64_t rows, void *real_rows, int64_t *row) {
    const int64_t size = m->storage == PYD_NATIVE ? (int64_t)sizeof(real) : 2;
    real *first = real_rows;
    if (m->row != -1) return first;
    first += (rows - 1) * *row;
    *row = -*row;
    m->data -= (rows - 1) * size;
    m->row = 1;
    return first;
}

static void FN(load_matrix)(const pyd_matrix *source, int64_t rows, int64_t columns, void *to,
                            int64_t to_row) {
    pyd_matrix turned = *source, *from = &turned;
    to = FN(turn_round)(from, rows, to, &to_row);
#define STORAGE from->storage
#define CALL(storage) FN(load_body)(storage, from, rows, columns, to, to_row);
    BY_STORAGE(CALL)
#undef CALL
#undef STORAGE
}

static void FN(store_matrix)(const void *from, int64_t from_row, int64_t rows, int64_t columns,
                             const void *bias, const pyd_matrix *target) {
    pyd_matrix turned = *target, *to = &turned;
    from = FN(turn_round)(to, rows, (void *)from, &from_row);
#define STORAGE to->storage
#define CALL(storage) FN(store_body)(storage, from, from_row, rows, columns, bias, to);
    BY_STORAGE(CALL)
#undef CALL
#undef STORAGE
}
#undef BY_STORAGE

/* Sums of a row, in LANES interleaved parts: short chains, and bits that depend on nothing else. */
static void FN(row_sums)(const pyd_matrix *from, int64_t rows, int64_t columns, void *out) {
    for (int64_t i = 0; i < rows; i++) {
        const char *data = from->data;
        const int64_t start = i * from->row, column = from->column;
        vreal sum = FN(all)(0);
        real part[LANES];
        int64_t j = 0;
        for (; j + LANES <= columns; j += LANES) {
            for (int l = 0; l < LANES; l++)
                part[l] = FN(fetch)(data, from->storage, start + (j + l) * column);
            sum += FN(load)(part);
        }
        for (int l = 0; l < LANES; l++)
            part[l] = j + l < columns ? FN(fetch)(data, from->storage, start + (j + l) * column) : 0;
        ((real *)out)[i] += FN(total)(sum + FN(load)(part));
    }
}

static void FN(add)(const void *a, const void *scale, int64_t count, void *out) {
    const real *from = a, *s = scale;
    real *to = out;
    if (s)
        for (int64_t i = 0; i < count; i++) to[i] += s[i] * from[i];
    else
        for (int64_t i = 0; i < count; i++) to[i] += from[i];
}

static void FN(add_rows)(const void *a, int64_t rows, int64_t columns, void *out, int64_t row) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) ((real *)out)[i * row + j] += ((const real *)a)[i];
}
