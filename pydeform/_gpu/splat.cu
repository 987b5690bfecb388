// The adjoint of sampling. Gathered: samples are brought into the order of the cells that they lie in,
// and every pixel adds up those of the cells around it, in the order of the samples, so that every run
// gives the same bits. Samples of a cell are counted (`keys`), which gives each a place among all
// (`place`) that depends on who came first, and put in their own order there (`settle`).
#include "_types.cuh"
#include "_stencil.cuh"
#include "_columns.cuh"

// What it was before.
__device__ __forceinline__ int count_one(int* count) { return atomicAdd(count, 1); }
__device__ __forceinline__ int64_t count_one(int64_t* count) {
    return int64_t(atomicAdd(reinterpret_cast<unsigned long long*>(count), 1ull));
}

struct keys_args {
    Geometry g;
    Taps taps;
    Terms terms;
    int64_t first, rows, first_image;
    void* keys;     // the cell of each (row, offset group, tap), -1 where nothing is scattered
    void* ranks;    // how many of its cell were counted before
    void* counts;   // of samples of a cell, at cell + 1; 0 before
    void* weights;  // of a sample's corners, of the working type
};

// kernel: keys args=keys_args threads=256 registers=96
// instances: A = float | double; R = 1 | 2 | 3; WIDE = false | true; I = int | int64_t
// registers: *,3 = 112
// registers: double,3 = 160
template <class A, int R, bool WIDE, class I> __device__ void keys(const keys_args& a) {
    constexpr int N = corner_count<R, WIDE>();
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const I pairs = I(g.groups * g.taps), taps = I(g.taps);
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t s = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; s < a.rows * pairs; s += step) {
        const I row = quotient(I(s), g.by_pairs), p = I(s) - row * pairs, group = quotient(p, g.by_taps), tap = p - group * taps;
        const Row<I, R> of = make_row<I, R>(g, I(a.first) + row);
        const Part<I, R> part = part_of_tap<I, R>(g, table, tap);
        const Sample<A, I, R> sample = make_sample<A, I, R>(g, table, part, of, group, tap);
        A factor[4];
        read_factors<A, I, R>(a.terms, of, group, tap, factor);
        A* weights = static_cast<A*>(a.weights) + s * N;
        bool scatters = false;
#pragma unroll
        for (int b = 0; b < N; ++b) {
            const A weight = terms_weight<A, I, R, WIDE>(a.terms, sample, factor, b);
            weights[b] = weight;
            scatters = scatters || weight != 0;
        }
        int64_t cell = 0;
#pragma unroll
        for (int d = 0; d < R; ++d) cell = cell * (part.size[d] + 2) + sample.axis[d].at + 1;
        cell += ((of.image - a.first_image) * g.groups + group) * g.cells + part.cell;
        if (!sample.alive || !scatters) cell = -1;
        static_cast<I*>(a.keys)[s] = I(cell);
        if (cell >= 0) static_cast<I*>(a.ranks)[s] = count_one(static_cast<I*>(a.counts) + cell + 1);
    }
}

struct place_args {
    const void* keys;
    const void* ranks;
    const void* start;
    void* order;
    int64_t count;  // of samples
};

// kernel: place args=place_args threads=256 registers=32
// instances: I = int | int64_t
template <class I> __device__ void place(const place_args& a) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t s = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; s < a.count; s += step) {
        const I cell = static_cast<const I*>(a.keys)[s];
        if (cell >= 0) static_cast<I*>(a.order)[static_cast<const I*>(a.start)[cell] + static_cast<const I*>(a.ranks)[s]] = I(s);
    }
}

struct settle_args {
    const void* start;
    void* order;
    int64_t cells, tiles;
};

// Sorts the samples of every cell. Few of them by one thread, in shared memory; many by the block, with
// a bitonic network all of whose comparisons go one way, so that a length need not be a power of two.
// kernel: settle args=settle_args threads=256 registers=48
// instances: I = int | int64_t
// registers: int64_t = 64
template <class I> __device__ void settle(const settle_args& a) {
    enum { FEW = 16, THREADS = 256 };
    __shared__ I sorted[FEW * THREADS];
    __shared__ int many[THREADS], longer;
    const I* start = static_cast<const I*>(a.start);
    I* order = static_cast<I*>(a.order);
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int64_t cell = tile * THREADS + threadIdx.x;
        const I begin = cell < a.cells ? start[cell] : I(0), count = cell < a.cells ? start[cell + 1] - begin : I(0);
        if (threadIdx.x == 0) longer = 0;
        __syncthreads();
        if (count > FEW) many[atomicAdd(&longer, 1)] = threadIdx.x;
        if (count > 1 && count <= FEW) {
            I* mine = sorted + threadIdx.x;
            for (int i = 0; i < int(count); ++i) {
                const I next = order[begin + i];
                int at = i;
                for (; at > 0 && mine[(at - 1) * THREADS] > next; --at) mine[at * THREADS] = mine[(at - 1) * THREADS];
                mine[at * THREADS] = next;
            }
            for (int i = 0; i < int(count); ++i) order[begin + i] = mine[i * THREADS];
        }
        __syncthreads();
        for (int m = 0; m < longer; ++m) {
            I* run = order + start[tile * THREADS + many[m]];
            const I length = start[tile * THREADS + many[m] + 1] - start[tile * THREADS + many[m]];
            for (int64_t size = 2; size / 2 < length; size *= 2) {
                for (int64_t apart = size / 2; apart > 0; apart /= 2) {
                    for (int64_t i = threadIdx.x; i < length; i += THREADS) {
                        const int64_t other = i ^ (apart == size / 2 ? size - 1 : apart);
                        if (other <= i || other >= length || run[i] <= run[other]) continue;
                        const I low = run[other];
                        run[other] = run[i], run[i] = low;
                    }
                    __syncthreads();
                }
            }
        }
        __syncthreads();  // before the lists are begun anew
    }
}

struct gather_args {
    Geometry g;
    Taps taps;
    Columns columns;
    const void* weights;  // of the samples' corners
    const void* order;    // of samples by cell
    const void* start;    // where each cell's begin in it
    void* images;         // channels last
    int64_t kind;         // of their numbers
    int64_t add;          // to what they hold
    int64_t first_image, count, lanes;
};

// kernel: gather args=gather_args threads=256 registers=96
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// sass: *,*,16B = LDG.E.128
template <class A, int R, int V, bool WIDE, class I> __device__ void gather(const gather_args& a) {
    constexpr int N = corner_count<R, WIDE>();
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const A* weights = static_cast<const A*>(a.weights);
    const I* order = static_cast<const I*>(a.order);
    const I* start = static_cast<const I*>(a.start);
    const I pairs = I(g.groups * g.taps), taps = I(g.taps);
    const int64_t width = g.channels / g.groups;
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    const int64_t total = a.count * g.pixels * g.groups, step = int64_t(gridDim.x) * blockDim.x / lanes;
    // The groups of a pixel side by side: its channels are.
    for (int64_t item = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / lanes; item < total; item += step) {
        const int64_t group = item % g.groups, pixel = item / g.groups % g.pixels, image = item / g.groups / g.pixels;
        int64_t level = 0;
        while (level + 1 < table.levels && pixel >= table.level[(level + 1) * (2 + R)]) ++level;
        const Part<int64_t, R> part = part_of_level<int64_t, R>(g, table, level * (2 + R));
        int64_t at[R], rest = pixel - part.first;
#pragma unroll
        for (int d = R - 1; d >= 0; --d) at[d] = rest % part.size[d], rest /= part.size[d];
        for (int64_t in_group = lane * V; in_group < width; in_group += lanes * V) {
            const int64_t channel = group * width + in_group;
            const int64_t out = ((a.first_image + image) * g.pixels + pixel) * g.channels + channel;
            A sum[V];
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = 0;
            if (a.add) load_numbers<A, V>(a.images, out, a.kind, sum);
            const int64_t begin = column_index<I>(a.columns, a.columns.first, 0, I(channel));
#pragma unroll 1
            for (int b = 0; b < N; ++b) {
                int64_t cell = 0;
                bool exists = true;
#pragma unroll
                for (int d = 0; d < R; ++d) {
                    const int64_t anchor = at[d] - (digit<R, WIDE>(b, d) - 1);
                    exists = exists && anchor >= -1 && anchor <= part.size[d];
                    cell = cell * (part.size[d] + 2) + anchor + 1;
                }
                if (!exists) continue;
                cell += (image * g.groups + group) * g.cells + part.cell;
                const I end = start[cell + 1];
                for (I i = start[cell]; i < end; ++i) {
                    const I s = order[i];
                    const A weight = weights[int64_t(s) * N + b];
                    if (weight == 0) continue;
                    const I row = quotient(s, g.by_pairs), p = s - row * pairs;
                    int64_t from = begin + row * a.columns.row;
                    if (a.columns.tap) from += (p - quotient(p, g.by_taps) * taps) * a.columns.tap;
                    A column[V];
                    load_numbers<A, V>(a.columns.data, from, a.columns.kind, column);
#pragma unroll
                    for (int v = 0; v < V; ++v) sum[v] += weight * column[v];
                }
            }
            store_numbers<A, V>(a.images, out, a.kind, sum);
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

// kernel: scatter args=scatter_args threads=256 registers=128
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: *,3 = 160
// registers: double,3 = 168
template <class A, int R, int V, bool WIDE, class I> __device__ void scatter(const scatter_args& a) {
    const auto take = [&](const auto& plans, int e, I image, int64_t row, I tap, I channel) {
        A* to = static_cast<A*>(a.images) + image * a.g.pixels * a.g.channels + channel;
        A column[V];
        load_numbers<A, V>(a.columns.data, column_index<I>(a.columns, row, tap, channel), a.columns.kind, column);
#pragma unroll
        for (int b = 0; b < corner_count<R, WIDE>(); ++b) {
            const A weight = plans.weight(e, b);
            if (weight == 0) continue;
            A added[V];
#pragma unroll
            for (int v = 0; v < V; ++v) added[v] = weight * plans.scale[e] * column[v];
            atomic_add(to + plans.pixel(e, b) * a.g.channels, added);
        }
    };
    walk_tiles<A, I, R, V, WIDE>(a.g, a.terms, a.columns.first, a.rows, a.tiles, int(a.lanes), take);
}
