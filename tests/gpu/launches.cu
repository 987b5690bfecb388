// Kernels that try out what the loader and the host execution offer.
#include "_types.cuh"

struct reverse_args {
  const void* x;
  void* y;
  int64_t n;
  double scale;
};

// Each block turns its elements around through shared memory, and multiplies them.
// kernel: reverse args=reverse_args threads=256 registers=32
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; I = int | int64_t
template <class T, class A, class I>
__device__ void reverse(const reverse_args& a) {
  PYD_SHARED(A, held);
  const I i = I(blockIdx.x) * blockDim.x + threadIdx.x;
  held[threadIdx.x] = i < a.n ? A(static_cast<const T*>(a.x)[i]) : A(0);
  __syncthreads();
  const A value = held[blockDim.x - 1 - threadIdx.x] * A(a.scale);
  if (i < a.n) static_cast<T*>(a.y)[i] = T(value);
}

struct where_args {
  int64_t* y;
};

// Which thread of which block of how many wrote an element.
// kernel: where args=where_args threads=64 registers=32
__device__ void where(const where_args& a) {
  const int64_t block = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int64_t thread = (int64_t(threadIdx.z) * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  a.y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

struct copy_args {
  const float* x;
  float* y;
};

// kernel: copy args=copy_args threads=256 registers=32
// instances: T,V = float,1 | float,16B
// sass: float,16B = LDG.E.128 STG.E.128
template <class T, int V>
__device__ void copy(const copy_args& a) {
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  Pack<T, V>::load(a.x + i).store(a.y + i);
}

struct lanes_args {
  const int* x;
  int* y;
};

// Every exchange between lanes of a warp: a row of y for each.
// kernel: lanes args=lanes_args threads=64 registers=40
__device__ void lanes(const lanes_args& a) {
  const int t = int(threadIdx.x), lane = lane_of(t), n = int(blockDim.x), x = a.x[t];
  int* y = a.y + t;
  y[0 * n] = shuffle(x, (lane + 1) % PYD_WARP);
  y[1 * n] = shuffle_xor(x, 5);
  y[2 * n] = shuffle_down(x, 3);
  y[3 * n] = __shfl_up_sync(PYD_ALL_LANES, x, 3, 16);
  y[4 * n] = __shfl_sync(PYD_ALL_LANES, x, 9, 8);
  int all[1] = {x}, eighth[1] = {x};
  lanes_sum(all), lanes_sum(eighth, 8);
  y[5 * n] = all[0], y[6 * n] = eighth[0];
  y[7 * n] = int(__ballot_sync(PYD_ALL_LANES, x & 1));
  y[8 * n] = __any_sync(PYD_ALL_LANES, x == 7) + 2 * __all_sync(PYD_ALL_LANES, x >= 0);
  y[9 * n] = lane < 16 ? __shfl_xor_sync(0xffffu, x, 8) : __shfl_xor_sync(0xffff0000u, x, 4);
  y[10 * n] = __syncthreads_count(x & 1);
}

struct sum_args {
  const void* x;
  void* y;
  int64_t n;
};

// kernel: sum args=sum_args threads=256 registers=32
// instances: T = float | double | int
template <class T>
__device__ void sum(const sum_args& a) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.n) atomicAdd(static_cast<T*>(a.y), static_cast<const T*>(a.x)[i]);
}

struct convert_args {
  const float* x;
  uint16_t* bits;
  float* back;
  int64_t n;
};

// kernel: convert args=convert_args threads=256 registers=32
// instances: H = half_t | bf16_t
template <class H>
__device__ void convert(const convert_args& a) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < a.n;
       i += int64_t(gridDim.x) * blockDim.x) {
    const H rounded(a.x[i]);
    a.bits[i] = rounded.bits;
    a.back[i] = float(rounded);
    const unsigned both = pack2<H>(a.x[i], float(rounded));
    if (both != (unsigned(rounded.bits) | unsigned(H(float(rounded)).bits) << 16)) a.bits[i] = 0xdead;
  }
}

struct product_args {
  const void *a, *b;
  float* d;
};

// One warp: d += a(16xK) . b(Kx8), row by row.
// kernel: product args=product_args threads=32 registers=48
// instances: T = half_t | bf16_t
// sass: = HMMA
template <class T>
__device__ void product(const product_args& p) {
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  const int group = int(threadIdx.x) >> 2, in = int(threadIdx.x) & 3;
  unsigned fa[4], fb[2];
  float acc[4];
  for (int i = 0; i < 4; ++i) {
    const T* pair = a + (group + (i & 1) * 8) * 16 + (i >> 1) * 8 + 2 * in;
    fa[i] = pack2<T>(pair[0], pair[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const T* pair = b + (i * 8 + 2 * in) * 8 + group;
    fb[i] = pack2<T>(pair[0], pair[8]);
  }
  for (int i = 0; i < 4; ++i) acc[i] = p.d[(group + (i >> 1) * 8) * 8 + 2 * in + (i & 1)];
  mma_16816<T>(acc, fa, fb);
  for (int i = 0; i < 4; ++i) p.d[(group + (i >> 1) * 8) * 8 + 2 * in + (i & 1)] = acc[i];
}

// kernel: product_tf32 args=product_args threads=32 registers=48
// instances: ROUND = 0 | 1
// sass: = HMMA
template <int ROUND>
__device__ void product_tf32(const product_args& p) {
  const float *a = static_cast<const float*>(p.a), *b = static_cast<const float*>(p.b);
  const int group = int(threadIdx.x) >> 2, in = int(threadIdx.x) & 3;
  unsigned fa[4], fb[2];
  float acc[4];
  auto operand = [](float v) { return ROUND ? to_tf32(v) : __float_as_uint(v); };
  for (int i = 0; i < 4; ++i)
    fa[i] = operand(a[(group + (i & 1) * 8) * 8 + (i >> 1) * 4 + in]);
  for (int i = 0; i < 2; ++i) fb[i] = operand(b[(i * 4 + in) * 8 + group]);
  for (int i = 0; i < 4; ++i) acc[i] = p.d[(group + (i >> 1) * 8) * 8 + 2 * in + (i & 1)];
  mma_1688_tf32(acc, fa, fb);
  for (int i = 0; i < 4; ++i) p.d[(group + (i >> 1) * 8) * 8 + 2 * in + (i & 1)] = acc[i];
}
