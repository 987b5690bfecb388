// A kernel per position: for every row and channel, the sum over taps and terms of
// factor * S_alpha(image), added up while the channels are in registers.
#include "_types.cuh"
#include "_stencil.cuh"
#include "_columns.cuh"

struct weigh_args {
    Geometry g;
    Taps taps;
    Terms terms;
    const void* images;
    void* out;  // [rows, channels]
    int64_t kind;  // of its numbers
    int64_t rows, tiles;
    int64_t across;      // threads along the channels of a row
    Divisor by_blocks;   // that a row takes
    Divisor by_width;    // of an offset group
    int64_t add;         // to what `out` holds
    int64_t rows_first;  // offsets of neighbouring rows lie side by side, else those of taps
};

// Shared memory for plans, in bytes: with the table, what every architecture gives unasked.
constexpr int PLAN_BYTES = 40960;

// kernel: weigh args=weigh_args threads=256 registers=80
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE,PLAIN = false,true | false,false | true,false; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE,PLAIN = false,true | false,false | true,false; I = int64_t
// registers: double = 128
// registers: *,*,*,*,true = 128
// registers: *,*,*,*,*,*,int64_t = 128
// registers: *,*,3 = 128
// registers: *,*,3,*,false,false,int64_t = 160
// registers: *,*,3,*,true = 220
// registers: double,double,3,*,false = 184
// registers: double,double,3,*,true = 236
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, bool PLAIN, class I> __device__ void weigh(const weigh_args& a) {
    constexpr int N = corner_count<R, WIDE>(), PLANS = PLAN_BYTES / (N * (sizeof(A) + sizeof(I)) + sizeof(A));
    __shared__ Plans<A, I, N, PLANS> plans;
    __shared__ int64_t numbers[sizeof(Taps::near) / 8];
    const Geometry& g = a.g;
    const Table table = make_table<R>(a.taps, g.taps, numbers);
    const I vectors = I(g.channels) / V, last = I(a.rows);
    const int taps = int(g.taps), across = int(a.across), down = blockDim.x / across, each = blockDim.x / down;
    const int x = threadIdx.x % across, y = threadIdx.x / across;
    // The row that a thread plans samples of, and which of those.
    const int i = a.rows_first ? threadIdx.x % down : threadIdx.x / each, j = a.rows_first ? threadIdx.x / down : threadIdx.x % each;
    int known = 0, first_tap = 0, first_group = 0, more_taps = 0, more_groups = 0;
    for (I tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const I line = quotient(tile, a.by_blocks), row = line * down;
        const I first = (tile - line * I(a.by_blocks.by)) * across, vector = first + x, channel = vector * V;
        // The offset groups that the channels of this block belong to, at most one a thread.
        const I group = quotient(first * V, a.by_width), end = first + across < vectors ? first + across : vectors;
        const int groups = int(quotient(end * V - 1, a.by_width) - group + 1);
        const I r = row + y;
        const bool here = r < last && y < down && vector < vectors, plans_here = row + i < last && i < down && j < each;
        const T* image = here ? image_at<T>(a.images, g, quotient(r, g.by_positions), channel) : nullptr;
        const Row<I, R> planned = make_row<I, R>(g, row + i);
        A sum[V];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = 0;
        // An odd number, so that the plans of neighbouring taps lie in different banks.
        const int pitch = down * groups | 1, together = PLANS / pitch < taps ? PLANS / pitch : taps;
        for (int tap = 0; tap < taps; tap += together) {
            const int count = tap + together < taps ? together : taps - tap;
            if (count != known) {
                known = count, first_tap = j % count, first_group = j / count;
                more_taps = each % count, more_groups = each / count;
            }
            int k = first_tap, own = plans_here ? first_group : groups, apart = 0;
            while (own < groups) {
                const int e = k * pitch + i * groups + own;
                if constexpr (PLAIN) apart |= !plans.template plan_values<R>(e, g, table, a.terms, planned, group + own, I(tap + k));
                else plans.template plan<R, WIDE>(e, g, table, a.terms, planned, group + own, I(tap + k));
                k += more_taps, own += more_groups;
                if (k >= count) k -= count, ++own;
            }
            bool finite = !__syncthreads_or(apart) && PLAIN;
            if (here) {
                const int begin = y * groups + int(quotient(channel, a.by_width) - group), stop = begin + count * pitch;
                const I channels = I(g.channels);
                A some[V];
#pragma unroll
                for (int v = 0; v < V; ++v) some[v] = 0;
                if (finite) {
                    // Elsewhere than on Hopper registers do not hold two.
                    constexpr int TOGETHER = N > 4 || PYD_ARCH / 100 != 9 ? 1 : 2;
                    int e = begin;
                    for (; e + (TOGETHER - 1) * pitch < stop; e += TOGETHER * pitch)
                        plans.template add_finite<TOGETHER>(e, pitch, image, channels, some);
                    if (e < stop) plans.template add_finite<1>(e, pitch, image, channels, some);
#pragma unroll
                    for (int v = 0; v < V; ++v) finite = finite && some[v] - some[v] == 0;
                }
                if (!finite) {
#pragma unroll
                    for (int v = 0; v < V; ++v) some[v] = 0;
#pragma unroll 1
                    for (int e = begin; e < stop; e += pitch) {
                        A blended[V];
#pragma unroll
                        for (int v = 0; v < V; ++v) blended[v] = 0;
                        plans.add(e, image, channels, blended);
#pragma unroll
                        for (int v = 0; v < V; ++v) some[v] += plans.scale[e] * blended[v];
                    }
                }
#pragma unroll
                for (int v = 0; v < V; ++v) sum[v] += some[v];
            }
            __syncthreads();
        }
        if (!here) continue;
        const int64_t at = wide_product(r, I(g.channels)) + channel;
        if (a.add) {
            A old[V];
            load_numbers<A, V>(a.out, at, a.kind, old);
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] += old[v];
        }
        store_numbers<A, V>(a.out, at, a.kind, sum);
    }
}
