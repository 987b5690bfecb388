// Sampling S_alpha, and what gradients of coordinates and factors are made of.
#include "_types.cuh"
#include "_stencil.cuh"
#include "_columns.cuh"

// Columns: for every row, tap and channel, sum over terms of factor * S_alpha(image).
struct blend_args {
    Geometry g;
    Terms terms;
    const void* images;
    Columns columns;
    Tiles tiles;
    int64_t add;  // to what the columns hold
};

// kernel: blend args=blend_args threads=256 registers=64
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double,double = 80
// registers: *,*,*,*,true = 128
// registers: *,*,*,*,*,int64_t = 112
// registers: *,*,3 = 128
// registers: double,double,3,*,true = 216
// sass: *,*,*,16B = LDG.E.128 STG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void blend(const blend_args& a) {
    const auto take = [&](const auto& plans, int e, I image, I row, I tap, I channel) {
        A sum[V], old[V];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = old[v] = 0;
        plans.add(e, image_at<T>(a.images, a.g, image, channel), I(a.g.channels), sum);
        const int64_t at = column_index<I>(a.columns, row, tap, channel);
        if (a.add) load_numbers<A, V>(a.columns.data, at, a.columns.kind, old);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = sum[v] * plans.scale[e] + old[v];
        store_numbers<A, V>(a.columns.data, at, a.columns.kind, sum);
    };
    walk_tiles<A, I, R, V, WIDE>(a.g, a.terms, a.columns.first, a.tiles, take);
}

// For every sample and each alpha of a list: sum over the channels of an offset group of
// columns * S_alpha(image), times a factor where asked for.
struct dots_args {
    Geometry g;
    Taps taps;
    const void* images;
    Columns columns;
    int64_t rows, lanes;
    int64_t rows_first;  // numbers of neighbouring rows lie side by side, else those of taps
    Divisor by_rows;
    Field factor;
    int64_t count;
    int64_t alpha[8], factored[8];
    Field out[8];
};

// What a block has in shared memory of each of its samples.
template <class A, class I, int R, int N> struct Dotted {
    enum { BYTES = sizeof(Sample<A, I, R>) + N * (sizeof(I) + sizeof(A)) + sizeof(I) + 16, COUNT = BYTES > 180 ? 64 : 256 };
    enum { EACH = N % 4 == 0 ? 4 : 1 };
    Pack<I, EACH> pixels[COUNT][N / EACH];  // -1 for none
    A sums[COUNT][N];                       // over channels, of each corner
    Sample<A, I, R> samples[COUNT];
    int64_t column[COUNT], image[COUNT];  // where those of its row and tap, and of its image, begin
    I channel[COUNT];                     // its offset group's first
};

// The sample with number s of a launch.
template <class I> struct Which {
    I image, position, group, tap, row;
};
template <class I> __device__ __forceinline__ Which<I> which_sample(const dots_args& a, I s) {
    const Divisor& along = a.rows_first ? a.by_rows : a.g.by_pairs;
    const I split = quotient(s, along), rest = s - split * I(along.by);
    const I pair = a.rows_first ? split : rest;
    Which<I> which;
    which.row = I(a.columns.first) + (a.rows_first ? rest : split);
    which.image = quotient(which.row, a.g.by_positions), which.position = which.row - which.image * I(a.g.positions);
    which.group = quotient(pair, a.g.by_taps), which.tap = pair - which.group * I(a.g.taps);
    return which;
}

// By one thread a sample: where it lies. By lanes: sums over channels. By one thread a sample: all results.
// kernel: dots args=dots_args threads=256 registers=64
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double,double = 128
// registers: *,*,*,*,*,int64_t = 128
// registers: *,*,3 = 128
// registers: *,*,*,*,true = 128
// registers: *,*,3,*,true = 216
// registers: double,double,3,*,true = 220
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void dots(const dots_args& a) {
    constexpr int N = corner_count<R, WIDE>(), TOGETHER = together<N>();
    using D = Dotted<A, I, R, N>;
    __shared__ D at;
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const I width = I(g.channels) / I(g.groups), vectors = width / V, total = I(a.rows) * I(g.groups * g.taps);
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    for (I first = blockIdx.x * I(D::COUNT); first < total; first += gridDim.x * I(D::COUNT)) {
        for (int e = threadIdx.x; e < D::COUNT; e += blockDim.x) {
            if (first + e >= total) continue;
            const Which<I> which = which_sample<I>(a, first + e);
            const Part<I, R> part = part_of_tap<I, R>(g, table, which.tap);
            const Sample<A, I, R> sample = make_sample<A, I, R>(g, table, part, make_row<I, R>(g, which.row), which.group, which.tap);
#pragma unroll
            for (int b = 0; b < N; b += D::EACH) {
                Pack<I, D::EACH> some;
#pragma unroll
                for (int i = 0; i < D::EACH; ++i) some.v[i] = sample.alive ? corner_pixel<A, I, R, WIDE>(part, sample, b + i) : I(-1);
                at.pixels[e][b / D::EACH] = some;
            }
            at.samples[e] = sample;
            at.column[e] = columns_at(a.columns, which.row, which.tap), at.channel[e] = which.group * width;
            at.image[e] = wide_product(which.image, I(g.pixels)) * g.channels;
        }
        __syncthreads();
        for (int e = threadIdx.x / lanes; e < D::COUNT; e += blockDim.x / lanes) {
            A sum[N];
#pragma unroll
            for (int b = 0; b < N; ++b) sum[b] = 0;
            if (first + e < total && at.samples[e].alive) {
                for (I vector = lane; vector < vectors; vector += lanes) {
                    const I channel = at.channel[e] + vector * V;
                    const T* x = static_cast<const T*>(a.images) + at.image[e] + channel;
                    A column[V];
                    load_numbers<A, V>(a.columns.data, at.column[e] + channel_at(a.columns, channel), a.columns.kind, column);
#pragma unroll
                    for (int b = 0; b < N; b += TOGETHER) {
                        // Without this the compiler starts all reads at once, and registers run out.
                        if (N > 8) asm volatile("" ::: "memory");
                        Words<T, V> corners[TOGETHER];
#pragma unroll
                        for (int i = 0; i < TOGETHER; ++i) {
                            corners[i].clear();
                            const I pixel = at.pixels[e][(b + i) / D::EACH].v[(b + i) % D::EACH];
                            if (pixel >= 0) corners[i].load(x + wide_product(pixel, I(g.channels)));
                        }
#pragma unroll
                        for (int i = 0; i < TOGETHER; ++i) corners[i].dot(column, sum[b + i]);
                    }
                }
            }
            lanes_sum(sum, lanes);
#pragma unroll
            for (int b = 0; b < N; ++b)
                if (lane == b % lanes) at.sums[e][b] = sum[b];
        }
        __syncthreads();
        for (int e = threadIdx.x; e < D::COUNT; e += blockDim.x) {
            if (first + e >= total) continue;
            const Which<I> which = which_sample<I>(a, first + e);
            const Sample<A, I, R>& sample = at.samples[e];
            for (int t = 0; t < int(a.count); ++t) {
                A dot = 0;
#pragma unroll
                for (int b = 0; b < N; ++b) {
                    const A weight = corner_weight<A, I, R, WIDE>(sample, int(a.alpha[t]), b);
                    if (weight != 0) dot += weight * at.sums[e][b];
                }
                if (sample.nan) dot = not_a_number(A(0));
                if (a.factored[t]) dot *= field_at<A, I>(a.factor, which.image, which.position, which.group, which.tap);
                const int64_t to = field_index<I>(a.out[t], which.image, which.position, which.group, which.tap);
                write_number<A>(a.out[t].data, to, a.out[t].kind, dot);
            }
        }
        __syncthreads();
    }
}
