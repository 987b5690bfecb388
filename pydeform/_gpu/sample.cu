// Sampling S_alpha, its adjoint, and what gradients of coordinates and factors are made of.
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
    int64_t add;     // to what the columns hold
    int64_t narrow;  // columns are of the storage type, else of the working type
};

// kernel: blend args=blend_args threads=256 registers=112
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double = 128
// registers: double,double,3,1,true = 144
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void blend(const blend_args& a) {
    using P = Plan<A, I, corner_count<R, WIDE>()>;
    __shared__ P plans[Tile<P>::PLANS];
    const Geometry& g = a.g;
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), across = (pairs + Tile<P>::PAIRS - 1) / Tile<P>::PAIRS;
    const I width = I(g.channels / g.groups), vectors = width / V;
    const int lanes = int(a.lanes);
    const int64_t last = a.columns.first + a.rows;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int64_t row = a.columns.first + tile / across * Tile<P>::ROWS;
        const I pair = I(tile % across) * Tile<P>::PAIRS;
        plan_tile<A, I, R, WIDE>(g, a.terms, row, last, pair, plans);
        __syncthreads();
        for (I e = threadIdx.x / lanes; e < Tile<P>::PLANS; e += blockDim.x / lanes) {
            const I p = pair + e / Tile<P>::ROWS, group = p / taps;
            const int64_t r = row + e % Tile<P>::ROWS;
            if (r >= last || p >= pairs) continue;
            for (I vector = threadIdx.x % lanes; vector < vectors; vector += lanes) {
                const I channel = group * width + vector * V;
                A sum[V];
                const T* image = image_at<T>(a.images, g, plans[e].image, channel);
                blend_corners<T, A, V>(plans[e], image, g.channels, sum);
                A* out = column_at<A>(a.columns, r, p % taps, channel);
                A old[V];
                if (a.add) load<A, A, V>(out, old);
#pragma unroll
                for (int v = 0; v < V; ++v) sum[v] = sum[v] * plans[e].scale + (a.add ? old[v] : A(0));
                if (a.narrow) store<T, A, V>(column_at<T>(a.columns, r, p % taps, channel), sum);
                else store<A, A, V>(out, sum);
            }
        }
        __syncthreads();
    }
}

// For every sample and each alpha of a list: sum over the channels of an offset group of
// columns * S_alpha(image), times a factor where asked for.
struct dots_args {
    Geometry g;
    const void* images;
    Columns columns;
    int64_t rows, tiles, lanes;
    Field factor;
    int64_t count;
    int64_t alpha[8], factored[8];
    Field out[8];
};

// kernel: dots args=dots_args threads=256 registers=144
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double = 168
// registers: *,*,3,*,true = 176
// registers: double,double,3,1,true,int64_t = 200
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void dots(const dots_args& a) {
    constexpr int N = corner_count<R, WIDE>(), SAMPLES = 256;
    __shared__ Sample<A, I, R> samples[SAMPLES];
    const Geometry& g = a.g;
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), positions = I(g.positions), rows = I(a.rows);
    const I width = I(g.channels / g.groups), vectors = width / V;
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        // Samples of a pair lie side by side: neighbouring threads read neighbouring offsets.
        const I first = I(tile) * SAMPLES, total = rows * pairs;
        for (I e = threadIdx.x; e < SAMPLES; e += blockDim.x) {
            const I s = first + e, r = I(a.columns.first) + s % rows, p = s / rows;
            if (s < total) samples[e] = make_sample<A, I, R>(g, r / positions, p / taps, p % taps, r % positions);
        }
        __syncthreads();
        for (I e = threadIdx.x / lanes; e < SAMPLES; e += blockDim.x / lanes) {
            const I s = first + e, r = I(a.columns.first) + s % rows, p = s / rows;
            const bool here = s < total;
            A sum[N];
#pragma unroll
            for (int b = 0; b < N; ++b) sum[b] = 0;
            if (here && samples[e].alive) {
                I pixel[N];
#pragma unroll
                for (int b = 0; b < N; ++b) pixel[b] = corner_pixel<A, I, R, WIDE>(g, samples[e], b);
                for (I vector = lane; vector < vectors; vector += lanes) {
                    const I channel = p / taps * width + vector * V;
                    const T* x = image_at<T>(a.images, g, r / positions, channel);
                    A column[V];
                    load<A, A, V>(column_at<A>(a.columns, r, p % taps, channel), column);
#pragma unroll
                    for (int b = 0; b < N; ++b) {
                        if (pixel[b] < 0) continue;
                        A pixels[V];
                        load<T, A, V>(x + int64_t(pixel[b]) * g.channels, pixels);
#pragma unroll
                        for (int v = 0; v < V; ++v) sum[b] += column[v] * pixels[v];
                    }
                }
            }
#pragma unroll
            for (int b = 0; b < N; ++b) sum[b] = lanes_sum(sum[b], lanes);
            if (!here) continue;
            for (int t = lane; t < a.count; t += lanes) {
                A dot = 0;
#pragma unroll
                for (int b = 0; b < N; ++b) {
                    const A weight = corner_weight<A, I, R, WIDE>(samples[e], int(a.alpha[t]), b);
                    if (weight != 0) dot += weight * sum[b];
                }
                if (samples[e].nan) dot = not_a_number(A(0));
                if (a.factored[t]) dot *= field_at<A>(a.factor, r / positions, p, r % positions);
                const Field& out = a.out[t];
                A* to = static_cast<A*>(const_cast<void*>(out.data));
                to[r / positions * out.image + p * out.channel + r % positions * out.position] = dot;
            }
        }
        __syncthreads();
    }
}

// The adjoint, gathered: samples are sorted by the cell they lie in, and every pixel adds up those
// of the cells around it, in the order of the samples. No atomics, the same bits in every run.
struct keys_args {
    Geometry g;
    Terms terms;
    int64_t first, rows, first_image, dead;
    void* keys;      // the cell of each (row, offset group, tap), `dead` where nothing is scattered
    int64_t narrow;  // keys are int, else int64_t
    void* weights;   // of its corners, of the working type
};

// kernel: keys args=keys_args threads=256 registers=96
// instances: A = float | double; R = 1 | 2 | 3; WIDE = false | true; I = int | int64_t
// registers: double = 104
// registers: double,3,true = 144
template <class A, int R, bool WIDE, class I> __device__ void keys(const keys_args& a) {
    constexpr int N = corner_count<R, WIDE>();
    const Geometry& g = a.g;
    const int64_t pairs = g.groups * g.taps, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t s = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; s < a.rows * pairs; s += step) {
        const I r = I(a.first + s / pairs), image = r / I(g.positions), position = r % I(g.positions);
        const I group = I(s % pairs) / I(g.taps), tap = I(s % pairs) % I(g.taps);
        const Sample<A, I, R> sample = make_sample<A, I, R>(g, image, group, tap, position);
        A factor[4];
        read_factors<A, I, R>(a.terms, g, image, group, tap, position, factor);
        A* weights = static_cast<A*>(a.weights) + s * N;
        bool scatters = false;
#pragma unroll
        for (int b = 0; b < N; ++b) {
            const A weight = terms_weight<A, I, R, WIDE>(a.terms, sample, factor, b);
            weights[b] = weight;
            scatters = scatters || weight != 0;
        }
        int64_t cell = (image - a.first_image) * g.groups + group;
#pragma unroll
        for (int d = 0; d < R; ++d) cell = cell * (g.size[d] + 2) + sample.axis[d].at + 1;
        if (!sample.alive || !scatters) cell = a.dead;
        if (a.narrow) static_cast<int*>(a.keys)[s] = int(cell);
        else static_cast<int64_t*>(a.keys)[s] = cell;
    }
}

struct gather_args {
    Geometry g;
    Columns columns;
    const void* weights;  // of the samples' corners
    const void* order;    // of samples by cell, int64_t
    const void* start;    // where each cell's begin in it, int64_t
    void* images;         // of the working type, channels last
    int64_t first_image, count, lanes;
};

// kernel: gather args=gather_args threads=256 registers=80
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// sass: *,*,16B = LDG.E.128
template <class A, int R, int V, bool WIDE, class I> __device__ void gather(const gather_args& a) {
    constexpr int N = corner_count<R, WIDE>();
    const Geometry& g = a.g;
    const A* weights = static_cast<const A*>(a.weights);
    const int64_t* order = static_cast<const int64_t*>(a.order);
    const int64_t* start = static_cast<const int64_t*>(a.start);
    const I pairs = I(g.groups * g.taps), taps = I(g.taps);
    const int64_t width = g.channels / g.groups;
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    const int64_t total = a.count * g.pixels * g.groups, step = int64_t(gridDim.x) * blockDim.x / lanes;
    // The groups of a pixel side by side: its channels are.
    for (int64_t item = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / lanes; item < total; item += step) {
        const int64_t group = item % g.groups, pixel = item / g.groups % g.pixels, image = item / g.groups / g.pixels;
        int64_t at[R], rest = pixel;
#pragma unroll
        for (int d = R - 1; d >= 0; --d) at[d] = rest % g.size[d], rest /= g.size[d];
        for (int64_t in_group = lane * V; in_group < width; in_group += lanes * V) {
            const int64_t channel = group * width + in_group;
            A* out = static_cast<A*>(a.images) + ((a.first_image + image) * g.pixels + pixel) * g.channels + channel;
            A sum[V];
            load<A, A, V>(out, sum);
#pragma unroll 1
            for (int b = 0; b < N; ++b) {
                int64_t cell = image * g.groups + group;
                bool exists = true;
#pragma unroll
                for (int d = 0; d < R; ++d) {
                    const int64_t anchor = at[d] - (digit<R, WIDE>(b, d) - 1);
                    exists = exists && anchor >= -1 && anchor <= g.size[d];
                    cell = cell * (g.size[d] + 2) + anchor + 1;
                }
                if (!exists) continue;
                const int64_t end = start[cell + 1];
                for (int64_t i = start[cell]; i < end; ++i) {
                    const int64_t s = order[i];
                    const A weight = weights[s * N + b];
                    const int64_t row = a.columns.first + I(s) / pairs;
                    if (weight != 0) add_scaled<A, A, V>(column_at<A>(a.columns, row, I(s) % taps, channel), weight, sum);
                }
            }
            store<A, A, V>(out, sum);
        }
    }
}

// The adjoint by atomic additions: faster where samples are few, in no fixed order.
struct scatter_args {
    Geometry g;
    Terms terms;
    Columns columns;
    void* images;
    int64_t rows, tiles, lanes;
};

// kernel: scatter args=scatter_args threads=256 registers=112
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double = 128
// registers: *,3,1,*,int64_t = 160
template <class A, int R, int V, bool WIDE, class I> __device__ void scatter(const scatter_args& a) {
    using P = Plan<A, I, corner_count<R, WIDE>()>;
    __shared__ P plans[Tile<P>::PLANS];
    const Geometry& g = a.g;
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), across = (pairs + Tile<P>::PAIRS - 1) / Tile<P>::PAIRS;
    const I width = I(g.channels / g.groups), vectors = width / V;
    const int lanes = int(a.lanes);
    const int64_t last = a.columns.first + a.rows;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int64_t row = a.columns.first + tile / across * Tile<P>::ROWS;
        const I pair = I(tile % across) * Tile<P>::PAIRS;
        plan_tile<A, I, R, WIDE>(g, a.terms, row, last, pair, plans);
        __syncthreads();
        for (I e = threadIdx.x / lanes; e < Tile<P>::PLANS; e += blockDim.x / lanes) {
            const I p = pair + e / Tile<P>::ROWS, group = p / taps;
            const int64_t r = row + e % Tile<P>::ROWS;
            if (r >= last || p >= pairs) continue;
            A* image = static_cast<A*>(a.images) + plans[e].image * g.pixels * g.channels;
            for (I vector = threadIdx.x % lanes; vector < vectors; vector += lanes) {
                const I channel = group * width + vector * V;
                A column[V];
                load<A, A, V>(column_at<A>(a.columns, r, p % taps, channel), column);
#pragma unroll
                for (int b = 0; b < corner_count<R, WIDE>(); ++b) {
                    if (plans[e].weight[b] == 0) continue;
                    A added[V];
#pragma unroll
                    for (int v = 0; v < V; ++v) added[v] = plans[e].weight[b] * plans[e].scale * column[v];
                    atomic_add(image + int64_t(plans[e].pixel[b]) * g.channels + channel, added);
                }
            }
        }
        __syncthreads();
    }
}
