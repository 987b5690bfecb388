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

// Numbers of the working type per (row, tap, channel), a row being an output position of an image.
// Channels come in groups of `width`, one after the other, so that each group is a matrix.
struct Columns {
    void* data;
    int64_t first;  // row
    int64_t width, group, row, tap;  // strides, but for width
};

template <class A> __device__ __forceinline__ A* column_at(const Columns& columns, int64_t row, int64_t tap, int64_t channel) {
    return static_cast<A*>(columns.data) + channel / columns.width * columns.group +
        (row - columns.first) * columns.row + tap * columns.tap + channel % columns.width;
}

// [images, pixels, channels] of a storage type; `step` elements an image.
template <class T> __device__ __forceinline__ const T* image_at(const void* images, const Geometry& g, int64_t image, int64_t channel) {
    return static_cast<const T*>(images) + image * g.pixels * g.channels + channel;
}

// sum += weight * the V channels at p
template <class T, class A, int V> __device__ __forceinline__ void add_scaled(const T* p, A weight, A (&sum)[V]) {
    A x[V];
    load<T, A, V>(p, x);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += weight * x[v];
}

// The blend of one sample's corners in V channels.
template <class T, class A, int V, class I, int N>
__device__ __forceinline__ void blend_corners(const Plan<A, I, N>& plan, const T* x, int64_t channels, A (&sum)[V]) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] = 0;
#pragma unroll
    for (int b = 0; b < N; ++b)
        if (plan.weight[b] != 0) add_scaled<T, A, V>(x + plan.pixel[b] * channels, plan.weight[b], sum);
}

// A block takes tiles of 16 rows and several (offset group, tap) pairs, as many as its shared
// memory holds plans of; neighbouring threads plan neighbouring positions. `Sampling._tiles` counts
// tiles by these numbers.
template <class P> struct Tile {
    enum { ROWS = 16, PAIRS = sizeof(P) > 200 ? 4 : 8, PLANS = ROWS * PAIRS };
};

template <class A, class I, int R, bool WIDE>
__device__ __forceinline__ void plan_tile(const Geometry& g, const Terms& terms, int64_t row, int64_t last_row, I pair,
                                          Plan<A, I, corner_count<R, WIDE>()>* plans) {
    using P = Plan<A, I, corner_count<R, WIDE>()>;
    const I pairs = I(g.groups * g.taps), taps = I(g.taps), positions = I(g.positions);
    for (int e = threadIdx.x; e < Tile<P>::PLANS; e += blockDim.x) {
        const int64_t r = row + e % Tile<P>::ROWS;
        const I p = pair + e / Tile<P>::ROWS;
        if (r < last_row && p < pairs)
            make_plan<A, I, R, WIDE>(g, terms, I(r) / positions, p / taps, p % taps, I(r) % positions, plans[e]);
    }
}
