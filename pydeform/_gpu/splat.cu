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
// registers: double = 112
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
    int64_t apart;  // how much further the next eight begins
};

// Sorts by a bitonic network all of whose comparisons go one way, so that a length need not be a power
// of two. Both halves of a block of 2 * apart are compared, the first time mirrored.
template <class I, class F> __device__ __forceinline__ void sort_run(I* run, I length, int thread, int threads, F barrier) {
    I blocks = 1;
    while (blocks < length) blocks *= 2;
    const I pairs = blocks / 2;
    for (I half = 1; half < length; half *= 2) {
        for (I apart = half; apart > 0; apart /= 2) {
            for (I pair = thread; pair < pairs; pair += threads) {
                const I in = pair & (apart - 1), block = (pair - in) * 2;
                const I i = block + in, other = apart == half ? block + 2 * apart - 1 - in : i + apart;
                if (other >= length || run[i] <= run[other]) continue;
                const I low = run[other];
                run[other] = run[i], run[i] = low;
            }
            barrier();
        }
    }
}

// The same in other memory.
template <class I, class F> __device__ __forceinline__ void sort_inside(I* memory, I* run, I length, int thread, int threads, F barrier) {
    for (I i = thread; i < length; i += threads) memory[i] = run[i];
    barrier();
    sort_run(memory, length, thread, threads, barrier);
    for (I i = thread; i < length; i += threads) run[i] = memory[i];
    barrier();
}

// Sorts the samples of every cell: few of them by one thread, more by a warp, more yet by the block, as
// long as they fit in shared memory. A block takes cells by eights that lie far apart, since a level of
// few pixels has many samples in all of its cells; by a part of the whole that no number of images and
// groups is a multiple of.
// kernel: settle args=settle_args threads=256 registers=64
// instances: I = int | int64_t
template <class I> __device__ void settle(const settle_args& a) {
    enum { FEW = 16, THREADS = 256, WARPS = THREADS / PYD_WARP, EIGHT = 8, ALL = FEW * THREADS, SHARE = ALL / WARPS };
    __shared__ I sorted[ALL];
    __shared__ int64_t many[THREADS];
    __shared__ int longer;
    const I* start = static_cast<const I*>(a.start);
    I* order = static_cast<I*>(a.order);
    const int warp = threadIdx.x / PYD_WARP, lane = threadIdx.x % PYD_WARP;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int eight = threadIdx.x / EIGHT;
        const int64_t cell = (eight * a.tiles + (tile + eight * a.apart) % a.tiles) * EIGHT + threadIdx.x % EIGHT;
        const I begin = cell < a.cells ? start[cell] : I(0), count = cell < a.cells ? start[cell + 1] - begin : I(0);
        if (threadIdx.x == 0) longer = 0;
        __syncthreads();
        if (count > FEW) many[atomicAdd(&longer, 1)] = cell;
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
        for (int m = warp; m < longer; m += WARPS) {
            const I length = start[many[m] + 1] - start[many[m]];
            if (length <= SHARE) sort_inside(sorted + warp * SHARE, order + start[many[m]], length, lane, PYD_WARP, warp_barrier);
        }
        __syncthreads();
        for (int m = 0; m < longer; ++m) {
            I* run = order + start[many[m]];
            const I length = start[many[m] + 1] - start[many[m]];
            const auto barrier = [] { __syncthreads(); };
            if (length > ALL) sort_run(run, length, int(threadIdx.x), int(THREADS), barrier);
            else if (length > SHARE) sort_inside(sorted, run, length, int(threadIdx.x), int(THREADS), barrier);
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
    Divisor by_groups, by_pixels;
};

// sum += the samples of COUNT cells from corner `corner` on, one corner after the other and in their
// order; the channels at `begin` of columns of type S, if they are `here`. The lanes at a pixel look one
// sample up each; then all of them add each of these, of which several are on their way at a time.
template <class S, int COUNT, int N, class A, int V, class I>
__device__ __forceinline__ void add_samples(const gather_args& a, const I (&cells)[COUNT], int corner, int64_t begin, bool here, A (&sum)[V]) {
    enum { TOGETHER = PYD_ARCH / 100 == 9 ? 4 : 2 };  // elsewhere than on Hopper registers do not hold more
    const I* start = static_cast<const I*>(a.start);
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    I first[COUNT], until[COUNT], total = 0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const I from = cells[i] < 0 ? I(0) : start[cells[i]], to = cells[i] < 0 ? I(0) : start[cells[i] + 1];
        first[i] = from - total, total += to - from, until[i] = total;
    }
    // A sample's weight, and where its columns are, of which there are fewer numbers than I goes to.
    A weight = 0;
    I from = 0;
    const auto look_up = [&](I mine) {
        weight = 0;
        if (mine >= total) return;
        int own = 0;
        I at = mine + first[0];
#pragma unroll
        for (int i = 1; i < COUNT; ++i)
            if (mine >= until[i - 1]) own = i, at = mine + first[i];
        const I s = static_cast<const I*>(a.order)[at];
        weight = static_cast<const A*>(a.weights)[int64_t(s) * N + corner + own];
        const I row = quotient(s, a.g.by_pairs), p = s - row * I(a.g.groups * a.g.taps);
        from = row * I(a.columns.row) + (p - quotient(p, a.g.by_taps) * I(a.g.taps)) * I(a.columns.tap);
    };
    look_up(lane);
    for (I done = 0; done < total; done += lanes) {
        const A known = weight;
        const I place = from;
        look_up(done + lanes + lane);  // on its way while these are added
        const int many = total - done < lanes ? int(total - done) : lanes;
        for (int j = 0; j < many; j += TOGETHER) {
            Words<S, V> column[TOGETHER];
            A by[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                by[i] = shuffle_run(known, j + i, lanes);
                const I at = shuffle_run(place, j + i, lanes);
                if (j + i >= many || !here) by[i] = 0;
                column[i].clear();
                if (by[i] != 0) column[i].load(static_cast<const S*>(a.columns.data) + begin + at);
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) column[i].add(by[i], sum);
        }
    }
}

// kernel: gather args=gather_args threads=256 registers=64
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: *,3 = 80
// registers: *,*,1 = 80
// registers: double = 112
// registers: *,*,*,*,int64_t = 128
// sass: *,*,16B = LDG.E.128
template <class A, int R, int V, bool WIDE, class I> __device__ void gather(const gather_args& a) {
    constexpr int N = corner_count<R, WIDE>(), TOGETHER = together<N>();
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const I width = I(g.channels) / I(g.groups);
    const int lanes = int(a.lanes), lane = threadIdx.x % lanes;
    const int64_t total = a.count * g.pixels * g.groups, step = int64_t(gridDim.x) * blockDim.x / lanes;
    // The groups of a pixel side by side: its channels are. From the end: there are the levels of few
    // pixels, each of which has many samples.
    for (int64_t item = total - 1 - (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / lanes; item >= 0; item -= step) {
        const I all = quotient(I(item), a.by_groups), group = I(item) - all * I(g.groups);
        const I image = quotient(all, a.by_pixels), pixel = all - image * I(g.pixels);
        int level = 0;
        while (level + 1 < table.levels && pixel >= table.level[(level + 1) * (2 + R)]) ++level;
        const Part<I, R> part = part_of_level<I, R>(g, table, level * (2 + R));
        I at[R], rest = pixel - part.first;
#pragma unroll
        for (int d = R - 1; d > 0; --d) {
            const I line = rest / part.size[d];
            at[d] = rest - line * part.size[d], rest = line;
        }
        at[0] = rest;
        const I base = (image * I(g.groups) + group) * I(g.cells) + I(part.cell);
        for (I before = 0; before < width; before += lanes * V) {
            const bool here = before + lane * V < width;
            const I channel = group * width + (here ? before + lane * V : I(0));
            const int64_t out = ((a.first_image + image) * g.pixels + pixel) * g.channels + channel;
            A sum[V];
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = 0;
            if (a.add && here) load_numbers<A, V>(a.images, out, a.kind, sum);
            const int64_t begin = channel_at(a.columns, channel);
#pragma unroll 1
            for (int b = 0; b < N; b += TOGETHER) {
                I cells[TOGETHER];
#pragma unroll
                for (int i = 0; i < TOGETHER; ++i) {
                    I cell = 0;
                    bool exists = true;
#pragma unroll
                    for (int d = 0; d < R; ++d) {
                        const I anchor = at[d] - (digit<R, WIDE>(b + i, d) - 1);
                        exists = exists && anchor >= -1 && anchor <= part.size[d];
                        cell = cell * (part.size[d] + 2) + anchor + 1;
                    }
                    cells[i] = exists ? base + cell : I(-1);
                }
                if (sizeof(A) == 8 || int(a.columns.kind) == WORKING) add_samples<A, TOGETHER, N, A, V, I>(a, cells, b, begin, here, sum);
                else if (int(a.columns.kind) == HALF) add_samples<half_t, TOGETHER, N, A, V, I>(a, cells, b, begin, here, sum);
                else add_samples<bf16_t, TOGETHER, N, A, V, I>(a, cells, b, begin, here, sum);
            }
            if (here) store_numbers<A, V>(a.images, out, a.kind, sum);
        }
    }
}

// The adjoint by atomic additions: faster where samples are few, in no fixed order.
struct scatter_args {
    Geometry g;
    Terms terms;
    Columns columns;
    void* images;
    Tiles tiles;
};

// kernel: scatter args=scatter_args threads=256 registers=128
// instances: A = float | double; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: A = float | double; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: *,3 = 160
// registers: double,3 = 168
template <class A, int R, int V, bool WIDE, class I> __device__ void scatter(const scatter_args& a) {
    const auto take = [&](const auto& plans, int e, I image, I row, I tap, I channel) {
        A* to = static_cast<A*>(a.images) + wide_product(image, I(a.g.pixels)) * a.g.channels + channel;
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
    walk_tiles<A, I, R, V, WIDE>(a.g, a.terms, a.columns.first, a.tiles, take);
}
