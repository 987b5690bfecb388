#include "_types.cuh"

struct toy_args {
  const void *x;
  void *y;
  int64_t n;
  double scale;
};

// Each block turns its elements around through shared memory and multiplies them.
// kernel: toy args=toy_args threads=256
// instances: T,A = float,float | double,double | half_t,float | bf16_t,float; I = int | int64_t
template <class T, class A, class I>
__device__ void toy(const toy_args& a) {
  PYD_SHARED(A, held);
  const I base = I(blockIdx.x) * blockDim.x;
  const I i = base + threadIdx.x;
  held[threadIdx.x] = i < a.n ? A(static_cast<const T*>(a.x)[i]) : A(0);
  __syncthreads();
  const A value = held[blockDim.x - 1 - threadIdx.x] * A(a.scale);
  if (i < a.n) static_cast<T*>(a.y)[i] = T(value);
}
