// A kernel per position: for every row and channel, the sum over taps and terms of
// factor * S_alpha(image), added up while the channels are in registers.
#include "_types.cuh"
#include "_stencil.cuh"
#include "_columns.cuh"

struct weigh_args {
    Geometry g;
    Terms terms;
    const void* images;
    void* out;  // [rows, channels]
    int64_t rows, tiles;
    int64_t across;  // threads along the channels of a row
    int64_t add;     // to what `out` holds
    int64_t narrow;  // `out` is of the storage type, else of the working type
};

// Shared memory for plans, in bytes: what every architecture gives without being asked.
constexpr int PLAN_BYTES = 40960;

// kernel: weigh args=weigh_args threads=256 registers=128
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1 | 16B; WIDE = false | true; I = int
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; R = 1 | 2 | 3; V = 1; WIDE = false | true; I = int64_t
// registers: double = 144
// registers: *,*,3,1,*,int64_t = 136
// registers: double,double,3,1,*,int64_t = 152
// sass: *,*,*,16B = LDG.E.128
template <class T, class A, int R, int V, bool WIDE, class I> __device__ void weigh(const weigh_args& a) {
    using P = Plan<A, I, corner_count<R, WIDE>()>;
    constexpr int PLANS = PLAN_BYTES / sizeof(P);
    __shared__ P plans[PLANS];
    const Geometry& g = a.g;
    const I taps = I(g.taps), positions = I(g.positions), width = I(g.channels / g.groups);
    const I vectors = I(g.channels) / V;
    const int across = int(a.across), down = blockDim.x / across;
    const int x = threadIdx.x % across, y = threadIdx.x / across;
    const I blocks = (vectors + across - 1) / across;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int64_t row = tile / blocks * down;
        const I first = I(tile % blocks) * across, vector = first + x, channel = vector * V;
        // The offset groups that the channels of this block belong to, at most one a thread.
        const I group = first * V / width, end = first + across < vectors ? first + across : vectors;
        const I groups = (end * V - 1) / width - group + 1;
        const int64_t r = row + y;
        const bool here = r < a.rows && y < down && vector < vectors;
        const T* image = here ? image_at<T>(a.images, g, I(r) / positions, channel) : nullptr;
        A sum[V];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = 0;
        I together = PLANS / (down * groups);  // as many taps as there is room for
        if (together > taps) together = taps;
        for (I tap = 0; tap < taps; tap += together) {
            const I count = tap + together < taps ? together : taps - tap;
            for (I e = threadIdx.x; e < down * groups * count; e += blockDim.x) {
                const int64_t s = row + e % down;
                const I pair = e / down;
                if (s < a.rows)
                    make_plan<A, I, R, WIDE>(g, a.terms, I(s) / positions, group + pair / count, tap + pair % count, I(s) % positions, plans[e]);
            }
            __syncthreads();
            if (here) {
                const P* plan = plans + (channel / width - group) * count * down + y;
                for (I k = 0; k < count; ++k, plan += down) {
                    A blended[V];
                    blend_corners<T, A, V>(*plan, image, g.channels, blended);
#pragma unroll
                    for (int v = 0; v < V; ++v) sum[v] += plan->scale * blended[v];
                }
            }
            __syncthreads();
        }
        if (!here) continue;
        const int64_t at = r * g.channels + channel;
        if (a.narrow) {
            store<T, A, V>(static_cast<T*>(a.out) + at, sum);
            continue;
        }
        A* out = static_cast<A*>(a.out) + at;
        if (a.add) {
            A old[V];
            load<A, A, V>(out, old);
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] += old[v];
        }
        store<A, A, V>(out, sum);
    }
}
