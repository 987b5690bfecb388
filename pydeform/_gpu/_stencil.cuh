// Where a sample reads and with which weights, as in pydeform/_ref/stencil.py: the operators S_alpha.
//
// A coordinate is kept split, p = i + f with i = base + floor(offset) an exact integer and
// f = offset - floor(offset). Along one axis a sample touches the pixels at - 1, at and at + 1: its
// value those at `at` and `at + 1`, its slope also the one before where a kink takes the mean of
// both sides. A pixel that is not to be read has weight 0.
#pragma once

enum { ZEROS, CLIP_ZERO, BORDER };  // what lies beyond the border
enum { RIGHT, OPEN, MEAN };         // which slope a kink has

// A number per (image, position, offset group, tap), of any strides: a mask, or its like.
struct Field {
    void* data;  // null for 1 everywhere
    int64_t image, position, group, tap;
    int64_t kind;  // of the numbers
};

// Types of numbers, of which kernels take any where there are few of them. What is computed in is the
// only one of 8 bytes.
enum { WORKING, HALF, BF16 };

template <class A, int N> __device__ __forceinline__ void read_numbers(const void* data, int64_t at, int64_t step, int64_t kind, A (&out)[N]) {
    if (sizeof(A) == 8 || int(kind) == WORKING) {
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = static_cast<const A*>(data)[at + i * step];
    } else {
        uint16_t bits[N];
#pragma unroll
        for (int i = 0; i < N; ++i) bits[i] = static_cast<const uint16_t*>(data)[at + i * step];
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = int(kind) == HALF ? A(pyd_half_to_float(bits[i])) : A(__uint_as_float(unsigned(bits[i]) << 16));
    }
}

template <class A> __device__ __forceinline__ void write_number(void* data, int64_t at, int64_t kind, A value) {
    if (sizeof(A) == 8 || int(kind) == WORKING) static_cast<A*>(data)[at] = value;
    else if (int(kind) == HALF) static_cast<half_t*>(data)[at] = half_t(float(value));
    else static_cast<bf16_t*>(data)[at] = bf16_t(float(value));
}

// Strides are of the type of indices, so that a product is one instruction where they are `int`.
template <class I> __device__ __forceinline__ int64_t field_index(const Field& f, I image, I position, I group, I tap) {
    return wide_product(image, I(f.image)) + wide_product(position, I(f.position)) + wide_product(group, I(f.group)) + wide_product(tap, I(f.tap));
}

template <class A, class I> __device__ __forceinline__ A field_at(const Field& f, I image, I position, I group, I tap) {
    A number[1] = {A(1)};
    if (f.data) read_numbers<A, 1>(f.data, field_index<I>(f, image, position, group, tap), 0, f.kind, number);
    return number[0];
}

// What is often divided by, with n / by = n * multiplier >> shift for each n of 31 bits: a division
// by what the compiler does not know takes 20 instructions, of 64 bits more.
struct Divisor {
    int64_t by, multiplier, shift;
};
__device__ __forceinline__ int quotient(int n, const Divisor& d) { return int((uint64_t(unsigned(n)) * uint64_t(d.multiplier)) >> int(d.shift)); }
__device__ __forceinline__ int64_t quotient(int64_t n, const Divisor& d) { return n / d.by; }

// A convolution without its arrays; of the axes, the first R count. Columns, chunks of rows and
// positions are addressed with it by every kernel, so it opens every argument struct.
struct Geometry {
    int64_t batch, channels, groups, taps, pixels, positions;
    int64_t size[3], out[3], kernel[3], stride[3], pad[3], dilation[3], upscale[3];
    int64_t mode, kink, absolute;
    // Numbers per (image, position, offset group, tap) and axis; null for 0 everywhere.
    Field offset;
    int64_t offset_axis;
    int64_t cells;  // of an image, of all levels: a cell more than pixels on each side
    Divisor by_positions, by_taps, by_pairs;  // pairs of offset group and tap
    Divisor by_out[2], by_kernel[2];          // extents of the second and third axis
};

// Where taps differ: what brings their offsets to pixels, scale * offset + start, and levels, of which
// each tap reads one. A table tells, which comes with the arguments if it is not too long:
// per level its first pixel, its first cell and its size; per tap where its level stands in that;
// per tap and axis scale and start, as numbers of the working type.
struct Taps {
    int64_t scaled, levels;
    int64_t count;  // numbers of the table
    const int64_t* far;
    int64_t near[256];
};

struct Table {
    int levels, scaled;
    const int64_t* level;  // the first
    const int64_t* of_tap;
    const void* units;
};

// For kernels whose taps are all alike: what depends on a table is not compiled.
#define PYD_NO_TABLE (Table{0, 0, nullptr, nullptr, nullptr})

// The table in memory that is as fast for any index. By all threads of a block.
template <int R> __device__ __forceinline__ Table make_table(const Taps& taps, int64_t number_of_taps, int64_t* shared) {
    if (taps.count && !taps.far) {
        for (int i = threadIdx.x; i < taps.count; i += blockDim.x) shared[i] = taps.near[i];
        __syncthreads();
    }
    const int64_t* at = taps.far ? taps.far : shared;
    const int64_t* of_tap = at + taps.levels * (2 + R);
    const void* units = taps.levels ? of_tap + number_of_taps : at;
    return Table{int(taps.levels), int(taps.scaled), at, of_tap, units};
}

// The image that a tap reads, as a part of a row of them.
template <class I, int R> struct Part {
    I first;       // pixel
    int64_t cell;  // its first
    I size[R];
};

template <class I, int R> __device__ __forceinline__ Part<I, R> part_of_level(const Geometry& g, const Table& table, int64_t at) {
    Part<I, R> part;
    part.first = table.levels ? I(table.level[at]) : I(0);
    part.cell = table.levels ? table.level[at + 1] : 0;
#pragma unroll
    for (int d = 0; d < R; ++d) part.size[d] = table.levels ? I(table.level[at + 2 + d]) : I(g.size[d]);
    return part;
}

template <class I, int R> __device__ __forceinline__ Part<I, R> part_of_tap(const Geometry& g, const Table& table, I tap) {
    return part_of_level<I, R>(g, table, table.levels ? table.of_tap[tap] : 0);
}

// Not contracted: the same number, and so the same cell, as of other backends.
__device__ __forceinline__ float scaled_offset(float scale, float offset, float start) { return __fadd_rn(__fmul_rn(scale, offset), start); }
__device__ __forceinline__ double scaled_offset(double scale, double offset, double start) { return __dadd_rn(__dmul_rn(scale, offset), start); }

template <class A, class I> struct Axis {
    I at;
    A value[2];  // of at and at + 1
    A slope[3];  // of at - 1, at and at + 1
};

template <class A, class I, int R> struct Sample {
    Axis<A, I> axis[R];
    bool nan;    // some coordinate is: the sample is NaN, and scatters nothing
    bool alive;  // all coordinates are finite
};

// Indices are `int` where nothing passes 2^29, so that base + floor(offset) fits whatever the offset.
__device__ __forceinline__ float far_away(int) { return 1073741824.0f; }                // 2^30
__device__ __forceinline__ double far_away(int64_t) { return 9007199254740992.0; }      // 2^53

template <class A, class I> __device__ __forceinline__ A rise(I cell, I size, bool zeros) {
    return zeros || (cell >= 0 && cell <= size - 2) ? A(1) : A(0);
}

// 0 <= i < size, in one comparison.
__device__ __forceinline__ bool within(int i, int size) { return unsigned(i) < unsigned(size); }
__device__ __forceinline__ bool within(int64_t i, int64_t size) { return uint64_t(i) < uint64_t(size); }

template <class A, class I>
__device__ __forceinline__ Axis<A, I> make_axis(A offset, I base, I size, int mode, int kink, bool* outside) {
    const A limit = A(far_away(I(0)));
    A whole = floor(offset);
    const A f = offset - whole;
    whole = min(max(whole, -limit), limit);
    const I i = base + I(whole);
    const bool zeros = mode == ZEROS;
    Axis<A, I> axis;
    A near = 1 - f, far = f;
    if (!zeros) {
        if (i < 0 || i >= size - 1) near = 1, far = 0;
        if (mode == CLIP_ZERO && (i < 0 || i >= size)) near = 0;
    }
    A right = rise<A>(i, size, zeros), left = 0;
    if (kink == MEAN && f == 0) {
        right *= A(0.5);
        left = A(0.5) * rise<A>(I(i - 1), size, zeros);
    }
    *outside = *outside || i < -1 || (i == -1 && f == 0) || i >= size;
    const I low = zeros ? -1 : 0, high = zeros ? size : size - 1;
    axis.at = min(max(i, low), high);
    // Elsewhere than with zeros, near is of a pixel of the image, and so is far unless it is 0.
    axis.value[0] = zeros && !within(i, size) ? A(0) : near;
    axis.value[1] = zeros && !within(I(i + 1), size) ? A(0) : far;
    axis.slope[0] = i >= 1 && i - 1 < size ? -left : A(0);
    axis.slope[1] = i >= 0 && i < size ? left - right : A(0);
    axis.slope[2] = i >= -1 && i + 1 < size ? right : A(0);
    return axis;
}

// The output position, or the tap, with this number.
template <class I, int R> struct Index { I at[R]; };
template <class I, int R> __device__ __forceinline__ Index<I, R> make_index(I number, const Divisor (&by)[2]) {
    Index<I, R> index;
#pragma unroll
    for (int d = R - 1; d > 0; --d) {
        const I rest = quotient(number, by[d - 1]);
        index.at[d] = number - rest * I(by[d - 1].by), number = rest;
    }
    index.at[0] = number;
    return index;
}

// What all samples of an output position share.
template <class I, int R> struct Row {
    I image, position, base[R];  // base(q, tap) of tap 0, where the grid lies
    int64_t offset;              // of the position's numbers
};
template <class I, int R> __device__ __forceinline__ Row<I, R> make_row(const Geometry& g, I number) {
    Row<I, R> row;
    row.image = quotient(number, g.by_positions), row.position = number - row.image * I(g.positions);
    row.offset = field_index<I>(g.offset, row.image, row.position, 0, 0);
    Index<I, R> index;
    if (!g.absolute) index = make_index<I, R>(row.position, g.by_out);
#pragma unroll
    for (int d = 0; d < R; ++d) {
        row.base[d] = 0;
        if (g.absolute) continue;
        const I step = g.upscale[d] == 1 ? index.at[d] : index.at[d] / I(g.upscale[d]);
        row.base[d] = step * I(g.stride[d]) - I(g.pad[d]);
    }
    return row;
}

// The sample of one tap of one offset group at one position of an image.
// MODE: what lies beyond the border, where a kernel has instances for one; -1 for what `g` says.
template <class A, class I, int R, int MODE = -1>
__device__ __forceinline__ Sample<A, I, R> make_sample(const Geometry& g, const Table& table, const Part<I, R>& part, const Row<I, R>& row, I group, I tap) {
    Index<I, R> first;  // of the grid
    if (!int(g.absolute)) first = make_index<I, R>(tap, g.by_kernel);
#pragma unroll
    for (int d = 0; d < R; ++d) first.at[d] = int(g.absolute) ? I(0) : row.base[d] + first.at[d] * I(g.dilation[d]);
    const A* units = nullptr;
    if (table.scaled) units = static_cast<const A*>(table.units) + wide_product(tap, I(2 * R));
    A moves[R];
#pragma unroll
    for (int d = 0; d < R; ++d) moves[d] = 0;
    const int64_t at = row.offset + wide_product(group, I(g.offset.group)) + wide_product(tap, I(g.offset.tap));
    if (g.offset.data) read_numbers<A, R>(g.offset.data, at, g.offset_axis, g.offset.kind, moves);
    Sample<A, I, R> sample;
    sample.nan = false, sample.alive = true;
    bool outside = false;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        const A move = table.scaled ? scaled_offset(units[2 * d], moves[d], units[2 * d + 1]) : moves[d];
        // Compared, not cast: a NaN is unequal to itself, an infinity minus itself is a NaN.
        const bool finite = move - move == 0;
        sample.nan = sample.nan || move != move;
        sample.alive = sample.alive && finite;
        Axis<A, I>& axis = sample.axis[d];
        axis = make_axis<A, I>(finite ? move : A(0), first.at[d], part.size[d], MODE < 0 ? int(g.mode) : MODE, int(g.kink), &outside);
        if (table.scaled) {
#pragma unroll
            for (int i = 0; i < 3; ++i) axis.slope[i] *= units[2 * d];
        }
    }
#pragma unroll
    for (int d = 0; d < R; ++d) {
        Axis<A, I>& axis = sample.axis[d];
        if (!sample.alive) axis.value[0] = axis.value[1] = 0;
        if (!sample.alive || (g.kink == OPEN && outside)) axis.slope[0] = axis.slope[1] = axis.slope[2] = 0;
    }
    return sample;
}

// Corners: the tensor product of two pixels an axis, or of three (WIDE) where a kink takes means.
template <int R, bool WIDE> __device__ constexpr int corner_count() {
    return WIDE ? (R == 1 ? 3 : R == 2 ? 9 : 27) : 1 << R;
}

// Which of the three pixels of axis d, counted from -1, corner b is.
template <int R, bool WIDE> __device__ __forceinline__ int digit(int b, int d) {
    if (!WIDE) return (b >> (R - 1 - d) & 1) + 1;
    int divisor = 1;
    for (int e = R - 1; e > d; --e) divisor *= 3;
    return b / divisor % 3;
}

// The weight of corner b in S_alpha; bit d of alpha says that axis d is differentiated.
template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ A corner_weight(const Sample<A, I, R>& sample, int alpha, int b) {
    A weight = 1;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        const Axis<A, I>& axis = sample.axis[d];
        const int j = digit<R, WIDE>(b, d);
        const A value = j == 0 ? A(0) : j == 1 ? axis.value[0] : axis.value[1];
        const A slope = j == 0 ? axis.slope[0] : j == 1 ? axis.slope[1] : axis.slope[2];
        weight *= alpha >> d & 1 ? slope : value;
    }
    return weight;
}

// The pixel of corner b; where it lies outside -1, or anything if that is `known` not to be.
template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ I corner_pixel(const Part<I, R>& part, const Sample<A, I, R>& sample, int b, bool known = false) {
    I pixel = 0;
    bool inside = true;
#pragma unroll
    for (int d = 0; d < R; ++d) {
        const I at = sample.axis[d].at + digit<R, WIDE>(b, d) - 1;
        inside = inside && within(at, part.size[d]);
        pixel = pixel * part.size[d] + at;
    }
    return known || inside ? part.first + pixel : I(-1);
}

// sum over terms of coefficient * S_alpha, up to one term for the value and one an axis. The factor
// of a lone term is kept apart, so that infinities meet it as in the formulas.
struct Terms {
    int64_t count;
    int64_t alpha[4];
    Field factor[4];
};

template <class A, class I, int R>
__device__ __forceinline__ void read_factors(const Terms& terms, const Row<I, R>& row, I group, I tap, A (&factor)[4]) {
#pragma unroll
    for (int t = 0; t < 4; ++t) factor[t] = t < terms.count ? field_at<A, I>(terms.factor[t], row.image, row.position, group, tap) : A(0);
}

template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ A terms_weight(const Terms& terms, const Sample<A, I, R>& sample, const A (&factor)[4], int b) {
    A weight = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
        if (t >= terms.count) continue;
        const A corner = corner_weight<A, I, R, WIDE>(sample, int(terms.alpha[t]), b);
        if (corner != 0) weight += factor[t] * corner;  // whatever the factor, what is not read is 0
    }
    return weight;
}

__device__ __forceinline__ float not_a_number(float) { return nanf(""); }
__device__ __forceinline__ double not_a_number(double) { return nan(""); }
