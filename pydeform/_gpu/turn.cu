// Matrices from one layout and type to another.
#include "_types.cuh"

// value + bias[at] in another type.
template <class S, class T> __device__ __forceinline__ T shifted(S value, const void* bias, int64_t at) {
    return bias ? T(value + static_cast<const S*>(bias)[at]) : T(value);
}

// out[n, j, i] = source[n, i, j] + bias, from one type to another. Squares of 32 x 32 go through
// shared memory, so that both sides are read and written along their last axis.
struct turn_args {
    const void* source;
    const void* bias;  // one of the source's type for every j, null for 0
    void* out;
    int64_t count, rows, columns;          // of the source
    int64_t source_matrix, source_row, out_matrix, out_row;  // strides
    int64_t tiles;
    int64_t flat;  // both are contiguous and there is no bias: no index is to be taken apart
};

// kernel: turn args=turn_args threads=256 registers=64
// instances: S,T = float,float | double,double | half_t,half_t | bf16_t,bf16_t | half_t,float | bf16_t,float | float,half_t | float,bf16_t
template <class S, class T> __device__ void turn(const turn_args& a) {
    __shared__ S square[32][33];  // one more, so that columns lie in different banks
    const int64_t down = (a.rows + 31) / 32, across = (a.columns + 31) / 32;
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int64_t n = tile / across / down, i = tile / across % down * 32, j = tile % across * 32;
        const S* source = static_cast<const S*>(a.source) + n * a.source_matrix;
        T* out = static_cast<T*>(a.out) + n * a.out_matrix;
        for (int k = y; k < 32; k += 8)
            if (i + k < a.rows && j + x < a.columns) square[k][x] = source[(i + k) * a.source_row + j + x];
        __syncthreads();
        for (int k = y; k < 32; k += 8) {
            if (i + x >= a.rows || j + k >= a.columns) continue;
            out[(j + k) * a.out_row + i + x] = shifted<S, T>(square[x][k], a.bias, j + k);
        }
        __syncthreads();
    }
}

// out[n, i, j] = source[n, i, j] + bias, from one type to another: what needs no turning.
// kernel: cast args=turn_args threads=256 registers=40
// instances: S,T = float,float | double,double | half_t,half_t | bf16_t,bf16_t | half_t,float | bf16_t,float | float,half_t | float,bf16_t
template <class S, class T> __device__ void cast(const turn_args& a) {
    const int64_t total = a.count * a.rows * a.columns, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t e = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; e < total; e += step) {
        if (a.flat) {
            static_cast<T*>(a.out)[e] = T(static_cast<const S*>(a.source)[e]);
            continue;
        }
        const int64_t j = e % a.columns, i = e / a.columns % a.rows, n = e / a.columns / a.rows;
        const S value = static_cast<const S*>(a.source)[n * a.source_matrix + i * a.source_row + j];
        static_cast<T*>(a.out)[n * a.out_matrix + i * a.out_row + j] = shifted<S, T>(value, a.bias, j);
    }
}
