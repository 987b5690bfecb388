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
/* Columns lie in rows of memory: squares of one register's size turn in registers, a few along the
 * rows before the next columns. No hardware follows so many streams: what comes next is asked for. */
enum { FN(SPAN) = 4 * LANES, FN(ROWS_ALL) = 64 * LANES };

INLINE void FN(expect)(const real *from, int64_t column) {
    UNROLL for (int l = 0; l < LANES; l++)
        for (int q = 0; q < FN(SPAN); q += 64 / (int)sizeof(real))
            __builtin_prefetch(from + l * column + q, 0, 3);
}

INLINE void FN(load_square)(const real *from, int64_t column, int64_t rows, int64_t columns,
                            real *to, int64_t to_row) {
    const int down = rows < LANES ? (int)rows : LANES;
    const int across = columns < LANES ? (int)columns : LANES;
    vreal square[LANES];
    if (down == LANES && across == LANES) {
        UNROLL for (int l = 0; l < LANES; l++) square[l] = FN(load)(from + l * column);
        FN(transpose)(square);
        UNROLL for (int l = 0; l < LANES; l++) FN(store)(to + l * to_row, square[l]);
        return;
    }
    UNROLL for (int l = 0; l < LANES; l++)
        square[l] = l < across ? FN(load_part)(from + l * column, down) : FN(all)(0);
    FN(transpose)(square);
    UNROLL for (int l = 0; l < LANES; l++)
        if (l < down) FN(store_part)(to + l * to_row, square[l], across);
}

INLINE void FN(load_turned)(const real *from, int64_t column, int64_t rows, int64_t columns,
                            real *to, int64_t to_row) {
    if (rows <= FN(ROWS_ALL) && column <= 2 * rows) { /* nearly all that is there: in its order */
        for (int64_t j = 0; j < columns; j += LANES)
            for (int64_t t = 0; t < rows; t += LANES) {
                const real *square = from + t + j * column;
                UNROLL for (int l = 2 * LANES; l < 3 * LANES; l++)
                    __builtin_prefetch(square + l * column, 0, 3);
                FN(load_square)(square, column, rows - t, columns - j, to + t * to_row + j, to_row);
            }
        return;
    }
    for (int64_t i = 0; i < rows; i += FN(SPAN)) {
        const int64_t stop = i + FN(SPAN) < rows ? i + FN(SPAN) : rows;
        for (int64_t j = 0; j < columns; j += LANES) {
            if (j + 2 * LANES <= columns) FN(expect)(from + i + (j + LANES) * column, column);
            else if (stop + FN(SPAN) <= rows && columns >= LANES) FN(expect)(from + stop, column);
            for (int64_t t = i; t < stop; t += LANES)
                FN(load_square)(from + t + j * column, column, rows - t, columns - j,
                                to + t * to_row + j, to_row);
        }
    }
}

INLINE void FN(store_turned)(const real *from, int64_t from_row, int64_t rows, int64_t columns,
                             const real *bias, real *to, int64_t column) {
    for (int64_t j = 0; j < columns; j += LANES) {
        const int across = columns - j < LANES ? (int)(columns - j) : LANES;
        const vreal plus = bias ? FN(load_part)(bias + j, across) : FN(all)(0);
        for (int64_t i = 0; i < rows; i += LANES) {
            const int down = rows - i < LANES ? (int)(rows - i) : LANES;
            vreal square[LANES];
            UNROLL for (int l = 2 * LANES; l < 3 * LANES; l++)
                __builtin_prefetch(to + (j + l) * column + i, 1, 3);
            if (!bias && down == LANES && across == LANES) {
                UNROLL for (int l = 0; l < LANES; l++)
                    square[l] = FN(load)(from + (i + l) * from_row + j);
                FN(transpose)(square);
                UNROLL for (int l = 0; l < LANES; l++)
                    FN(store)(to + (j + l) * column + i, square[l]);
                continue;
            }
            UNROLL for (int l = 0; l < LANES; l++) {
                square[l] = l < down ? FN(load_part)(from + (i + l) * from_row + j, across)
                                     : FN(all)(0);
                if (bias) square[l] += plus;
            }
            FN(transpose)(square);
            UNROLL for (int l = 0; l < LANES; l++)
                if (l < across) FN(store_part)(to + (j + l) * column + i, square[l], down);
        }
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
