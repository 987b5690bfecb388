// Columns, and images with their channels last: what lies where, and how blocks divide the work.
#pragma once

// V neighbours at p, as numbers of the working type; 16 bytes at a time.
template <class T, class A, int V> __device__ __forceinline__ void load(const T* p, A (&out)[V]) {
    constexpr int N = V * sizeof(T) > 16 ? 16 / sizeof(T) : V;
#pragma unroll
    for (int i = 0; i < V; i += N) {
        const Pack<T, N> pack = Pack<T, N>::load(p + i);
#pragma unroll
        for (int v = 0; v < N; ++v) out[i + v] = A(pack.v[v]);
    }
}

template <class T, class A, int V> __device__ __forceinline__ void store(T* p, const A (&values)[V]) {
    constexpr int N = V * sizeof(T) > 16 ? 16 / sizeof(T) : V;
#pragma unroll
    for (int i = 0; i < V; i += N) {
        Pack<T, N> pack;
#pragma unroll
        for (int v = 0; v < N; ++v) pack.v[v] = T(values[i + v]);
        pack.store(p + i);
    }
}

// The same of any type.
template <class A, int V> __device__ __forceinline__ void load_numbers(const void* data, int64_t at, int64_t kind, A (&out)[V]) {
    if (sizeof(A) == 8 || int(kind) == WORKING) load<A, A, V>(static_cast<const A*>(data) + at, out);
    else if (int(kind) == HALF) load<half_t, A, V>(static_cast<const half_t*>(data) + at, out);
    else load<bf16_t, A, V>(static_cast<const bf16_t*>(data) + at, out);
}

template <class A, int V> __device__ __forceinline__ void store_numbers(void* data, int64_t at, int64_t kind, const A (&values)[V]) {
    if (sizeof(A) == 8 || int(kind) == WORKING) store<A, A, V>(static_cast<A*>(data) + at, values);
    else if (int(kind) == HALF) store<half_t, A, V>(static_cast<half_t*>(data) + at, values);
    else store<bf16_t, A, V>(static_cast<bf16_t*>(data) + at, values);
}

// V neighbours in registers as they are stored; 16-bit types in pairs, which the compiler would take
// apart and put together again.
template <class T, int V> struct Words {
    Pack<T, V> pack;
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int v = 0; v < V; ++v) pack.v[v] = T(0.0f);
    }
    __device__ __forceinline__ void load(const T* p) { pack = Pack<T, V>::load(p); }
    template <class A> __device__ __forceinline__ void add(A weight, A (&sum)[V]) const {
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += weight * A(pack.v[v]);
    }
    template <class A> __device__ __forceinline__ void dot(const A (&with)[V], A& sum) const {
#pragma unroll
        for (int v = 0; v < V; ++v) sum += with[v] * A(pack.v[v]);
    }
};
template <class T> struct Words<T, 8> {
    Pack<unsigned, 4> pack;
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int v = 0; v < 4; ++v) pack.v[v] = 0;
    }
    __device__ __forceinline__ void load(const T* p) { pack = Pack<unsigned, 4>::load(reinterpret_cast<const unsigned*>(p)); }
    template <class A> __device__ __forceinline__ void dot(const A (&with)[8], A& sum) const {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            float low, high;
            unpack2<T>(pack.v[v], low, high);
            sum += with[2 * v] * low, sum += with[2 * v + 1] * high;
        }
    }
    template <class A> __device__ __forceinline__ void add(A weight, A (&sum)[8]) const {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            float low, high;
            unpack2<T>(pack.v[v], low, high);
            sum[2 * v] += weight * low, sum[2 * v + 1] += weight * high;
        }
    }
};

// How many of N corners are loaded at a time: more would want more registers than gain time.
template <int N> __device__ constexpr int together() { return N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N; }

// Numbers per (row, tap, channel), a row being an output position of an image. Channels come in
// groups of `width`, one after the other, so that each group is a matrix.
struct Columns {
    void* data;
    int64_t first;  // row
    Divisor width;
    int64_t group, row, tap;  // strides
    int64_t kind;
};

// Where the columns of a row and tap begin, and where a channel is in them.
template <class I> __device__ __forceinline__ int64_t columns_at(const Columns& columns, I row, I tap) {
    return (row - columns.first) * columns.row + tap * columns.tap;
}
template <class I> __device__ __forceinline__ int64_t channel_at(const Columns& columns, I channel) {
    const I group = quotient(channel, columns.width);
    return group * columns.group + (channel - group * I(columns.width.by));
}
template <class I> __device__ __forceinline__ int64_t column_index(const Columns& columns, I row, I tap, I channel) {
    return columns_at(columns, row, tap) + channel_at(columns, channel);
}

// [images, pixels, channels] of a storage type.
template <class T> __device__ __forceinline__ const T* image_at(const void* images, const Geometry& g, int64_t image, int64_t channel) {
    return static_cast<const T*>(images) + image * g.pixels * g.channels + channel;
}

// All that a block has to know of samples to read them, in shared memory: taken once, used by all of
// their channels. In packs of what is read at once.
template <class A, class I, int N, int COUNT> struct Plans {
    enum { EACH = N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1, PACKS = N / EACH };
    Pack<A, EACH> weights[COUNT * PACKS];
    Pack<I, EACH> pixels[COUNT * PACKS];
    A scale[COUNT];  // of the sum of corners; NaN for a NaN sample

    // A pixel is one of the image also where its weight is 0: that one is not to be read.
    __device__ __forceinline__ A& weight(int e, int b) { return weights[e * PACKS + b / EACH].v[b % EACH]; }
    __device__ __forceinline__ I& pixel(int e, int b) { return pixels[e * PACKS + b / EACH].v[b % EACH]; }
    __device__ __forceinline__ A weight(int e, int b) const { return weights[e * PACKS + b / EACH].v[b % EACH]; }
    __device__ __forceinline__ I pixel(int e, int b) const { return pixels[e * PACKS + b / EACH].v[b % EACH]; }

    // Sets the plan of a sample, of any terms.
    template <int R, bool WIDE>
    __device__ __forceinline__ void plan(int e, const Geometry& g, const Table& table, const Terms& terms, const Row<I, R>& row, I group, I tap) {
        const Part<I, R> part = part_of_tap<I, R>(g, table, tap);
        const Sample<A, I, R> sample = make_sample<A, I, R>(g, table, part, row, group, tap);
        A factor[4];
        read_factors<A, I, R>(terms, row, group, tap, factor);
        scale[e] = sample.nan ? not_a_number(A(0)) : terms.count == 1 ? factor[0] : A(1);
        if (terms.count == 1) factor[0] = 1;
#pragma unroll
        for (int b = 0; b < N; ++b) {
            const I at = corner_pixel<A, I, R, WIDE>(part, sample, b);
            pixel(e, b) = at < 0 ? I(0) : at;
            weight(e, b) = at < 0 ? A(0) : terms_weight<A, I, R, WIDE>(terms, sample, factor, b);
        }
    }

    // The same of one term, of values, with zeros beyond the border. Weights have the scale in them, which is 1 then, unless that makes
    // a difference to what comes of infinities and of numbers that are too small: false is returned.
    template <int R>
    __device__ __forceinline__ bool plan_values(int e, const Geometry& g, const Table& table, const Terms& terms, const Row<I, R>& row, I group, I tap) {
        const Part<I, R> part = part_of_tap<I, R>(g, table, tap);
        const Sample<A, I, R> sample = make_sample<A, I, R, ZEROS>(g, table, part, row, group, tap);
        A by = field_at<A, I>(terms.factor[0], row.image, row.position, group, tap);
        if (sample.nan) by = not_a_number(A(0));
        bool folds = by - by == 0;
        A plain[N], folded[N];
        I at[N];
#pragma unroll
        for (int b = 0; b < N; ++b) {
            plain[b] = corner_weight<A, I, R, false>(sample, 0, b);  // 0 outside of the image
            at[b] = plain[b] == 0 ? I(0) : corner_pixel<A, I, R, false>(part, sample, b, true);
            folded[b] = plain[b] * by;
            folds = folds & ((folded[b] != 0) | (plain[b] == 0));
        }
#pragma unroll
        for (int i = 0; i < PACKS; ++i) {
            Pack<A, EACH> some;
            Pack<I, EACH> places;
#pragma unroll
            for (int b = 0; b < EACH; ++b) some.v[b] = folds ? folded[i * EACH + b] : plain[i * EACH + b], places.v[b] = at[i * EACH + b];
            weights[e * PACKS + i] = some, pixels[e * PACKS + i] = places;
        }
        scale[e] = folds ? A(1) : by;
        return folds;
    }

    // sum += the corners of a sample in V channels, of an image that begins at x. What is not to be read
    // is 0; several are on their way before the first is added.
    template <class T, int V> __device__ __forceinline__ void add(int e, const T* x, I channels, A (&sum)[V]) const {
        constexpr int TOGETHER = together<N>();
#pragma unroll
        for (int b = 0; b < N; b += TOGETHER) {
            Words<T, V> corners[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                corners[i].clear();
                if (weight(e, b + i) != 0) corners[i].load(x + wide_product(pixel(e, b + i), channels));
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) corners[i].add(weight(e, b + i), sum);
        }
    }

    // The same of finite pixels, of SAMPLES samples `pitch` apart: what is not to be read is read too, so
    // that all are on their way at a time, and times 0.
    template <int SAMPLES, class T, int V>
    __device__ __forceinline__ void add_finite(int e, int pitch, const T* x, I channels, A (&sum)[V]) const {
        Words<T, V> corners[SAMPLES][N];
#pragma unroll
        for (int i = 0; i < SAMPLES; ++i)
#pragma unroll
            for (int b = 0; b < N; ++b) corners[i][b].load(x + wide_product(pixel(e + i * pitch, b), channels));
#pragma unroll
        for (int i = 0; i < SAMPLES; ++i)
#pragma unroll
            for (int b = 0; b < N; ++b) corners[i][b].add(weight(e + i * pitch, b), sum);
    }
};

// A block takes tiles of 16 rows and so many (offset group, tap) pairs that all tiles have about as many
// and shared memory holds the plans; neighbouring threads plan neighbouring positions.
// `Sampling._tiles` divides by these numbers.
template <class A, class I, int N> struct Tile {
    enum { ROWS = 16, PAIRS = N * (sizeof(A) + sizeof(I)) + sizeof(A) > 150 ? 4 : 16, PLANS = ROWS * PAIRS };
};
struct Tiles {
    int64_t rows, count, lanes;
    Divisor across;  // tiles along the pairs
    int64_t pairs;   // of a tile
};

// take(plans, which, image, row, tap, channel) for V channels of one sample after another, `lanes`
// neighbouring threads being at one sample. Taps are all alike.
template <class A, class I, int R, int V, bool WIDE, class F>
__device__ __forceinline__ void walk_tiles(const Geometry& g, const Terms& terms, int64_t first_row, const Tiles& tiles, F take) {
    constexpr int N = corner_count<R, WIDE>();
    using S = Tile<A, I, N>;
    __shared__ Plans<A, I, N, S::PLANS> plans;
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), across = I(tiles.pairs), last = I(first_row + tiles.rows);
    const I width = I(g.channels) / I(g.groups), vectors = width / V;
    const int lanes = int(tiles.lanes), each = S::ROWS * int(across);
    for (I tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
        const I down = quotient(tile, tiles.across);
        const I row = I(first_row) + down * S::ROWS, pair = (tile - down * I(tiles.across.by)) * across;
        for (int e = threadIdx.x; e < each; e += blockDim.x) {
            const I r = row + e % S::ROWS;
            const I p = pair + e / S::ROWS, group = quotient(p, g.by_taps);
            if (r >= last || p >= pairs) continue;
            plans.template plan<R, WIDE>(e, g, PYD_NO_TABLE, terms, make_row<I, R>(g, r), group, p - group * taps);
        }
        __syncthreads();
        for (int e = threadIdx.x / lanes; e < each; e += blockDim.x / lanes) {
            const I p = pair + e / S::ROWS, group = quotient(p, g.by_taps);
            const I r = row + e % S::ROWS;
            if (r >= last || p >= pairs) continue;
            const I image = quotient(r, g.by_positions);
            for (I vector = threadIdx.x % lanes; vector < vectors; vector += lanes)
                take(plans, e, image, r, p - group * taps, group * width + vector * V);
        }
        __syncthreads();
    }
}
