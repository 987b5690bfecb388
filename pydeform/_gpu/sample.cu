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
    int64_t rows, tiles, lanes;
    int64_t add;  // to what the columns hold
};

// kernel: blend args=blend_args threads=256 registers=112
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: *,*,3 = 128
// registers: double,double,3 = 144
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void blend(const blend_args& a) {
    const auto take = [&](const auto& plans, int e, I image, int64_t row, I tap, I channel) {
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
    walk_tiles<A, I, R, V, WIDE>(a.g, a.terms, a.columns.first, a.rows, a.tiles, int(a.lanes), take);
}

// For every sample and each alpha of a list: sum over the channels of an offset group of
// columns * S_alpha(image), times a factor where asked for.
struct dots_args {
    Geometry g;
    Taps taps;
    const void* images;
    Columns columns;
    int64_t rows, tiles, lanes;
    int64_t rows_first;  // numbers of neighbouring rows lie side by side, else those of taps
    Divisor by_rows;
    Field factor;
    int64_t count;
    int64_t alpha[8], factored[8];
    Field out[8];
};

// kernel: dots args=dots_args threads=256 registers=128
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: *,*,3,*,true = 184
// registers: double,double,3,*,true = 216
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void dots(const dots_args& a) {
    constexpr int N = corner_count<R, WIDE>(), SAMPLES = 256;
    __shared__ Sample<A, I, R> samples[SAMPLES];
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), positions = I(g.positions), rows = I(a.rows);
    const Divisor& along = a.rows_first ? a.by_rows : g.by_pairs;
    const I width = I(g.channels / g.groups), vectors = width / V, total = rows * pairs;
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const I first = I(tile) * SAMPLES;
        for (I e = threadIdx.x; e < SAMPLES; e += blockDim.x) {
            const I s = first + e, split = quotient(s, along), rest = s - split * I(along.by);
            const I r = I(a.columns.first) + (a.rows_first ? rest : split), p = a.rows_first ? split : rest;
            if (s >= total) continue;
            const I group = quotient(p, g.by_taps), tap = p - group * taps;
            samples[e] = make_sample<A, I, R>(g, table, part_of_tap<I, R>(g, table, tap), make_row<I, R>(g, r), group, tap);
        }
        __syncthreads();
        for (I e = threadIdx.x / lanes; e < SAMPLES; e += blockDim.x / lanes) {
            const I s = first + e, split = quotient(s, along), rest = s - split * I(along.by);
            const I r = I(a.columns.first) + (a.rows_first ? rest : split), p = a.rows_first ? split : rest;
            const I image = quotient(r, g.by_positions), position = r - image * positions;
            const I group = quotient(p, g.by_taps), tap = p - group * taps;
            const bool here = s < total;
            A sum[N];
#pragma unroll
            for (int b = 0; b < N; ++b) sum[b] = 0;
            if (here && samples[e].alive) {
                const Part<I, R> part = part_of_tap<I, R>(g, table, tap);
                I pixel[N];
#pragma unroll
                for (int b = 0; b < N; ++b) pixel[b] = corner_pixel<A, I, R, WIDE>(part, samples[e], b);
                for (I vector = lane; vector < vectors; vector += lanes) {
                    const I channel = group * width + vector * V;
                    const T* x = image_at<T>(a.images, g, image, channel);
                    A column[V];
                    load_numbers<A, V>(a.columns.data, column_index<I>(a.columns, r, tap, channel), a.columns.kind, column);
#pragma unroll
                    for (int b = 0; b < N; ++b) {
                        if (pixel[b] < 0) continue;
                        A pixels[V];
                        load<T, A, V>(x + wide_product(pixel[b], I(g.channels)), pixels);
#pragma unroll
                        for (int v = 0; v < V; ++v) sum[b] += column[v] * pixels[v];
                    }
                }
            }
            lanes_sum(sum, lanes);
            if (!here) continue;
            for (int t = lane; t < a.count; t += lanes) {
                A dot = 0;
#pragma unroll
                for (int b = 0; b < N; ++b) {
                    const A weight = corner_weight<A, I, R, WIDE>(samples[e], int(a.alpha[t]), b);
                    if (weight != 0) dot += weight * sum[b];
                }
                if (samples[e].nan) dot = not_a_number(A(0));
                if (a.factored[t]) dot *= field_at<A, I>(a.factor, image, position, group, tap);
                write_number<A>(a.out[t].data, field_index<I>(a.out[t], image, position, group, tap), a.out[t].kind, dot);
            }
        }
        __syncthreads();
    }
}
