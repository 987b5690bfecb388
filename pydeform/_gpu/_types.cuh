// What a kernel needs and every build has in its own way: integers of fixed width, 16-bit floats,
// aligned packs, dynamic shared memory, warps, tensor cores. The only file with builds in it:
// PYD_HOST (the CPU, through host/cuda_on_host.h), HIP, else CUDA.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__HIPCC_RTC__)
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
typedef unsigned char uint8_t;
#elif !defined(PYD_HOST)
#include <cstdint>
#endif

#if defined(__HIPCC__) || defined(__HIP__)
#define PYD_HIP 1
#endif

// Lanes of a warp, and the mask that names them all.
#if !defined(PYD_WARP)
#if defined(__GFX8__) || defined(__GFX9__)
#define PYD_WARP 64
#else
#define PYD_WARP 32
#endif
#endif
#if PYD_WARP == 64
typedef unsigned long long lanes_t;
#else
typedef unsigned int lanes_t;
#endif
#define PYD_ALL_LANES (~lanes_t(0))

// How the struct of arguments stands in the signature of a kernel that is started from outside.
#if defined(PYD_HIP)
#define PYD_ARGUMENTS const
#else
#define PYD_ARGUMENTS const __grid_constant__
#endif

// The architecture that is compiled for, where registers decide what a thread holds; elsewhere Hopper's way.
#if defined(__CUDA_ARCH__)
#define PYD_ARCH __CUDA_ARCH__
#elif !defined(PYD_ARCH)
#define PYD_ARCH 900
#endif

// Threads of a block at most, and how many blocks are to fit into a multiprocessor at least; AMD's
// compiler counts otherwise.
#if defined(PYD_HIP)
#define PYD_BOUNDS(threads, blocks) __launch_bounds__(threads)
#else
#define PYD_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#endif

// T* name = the block's dynamic shared memory; all uses in one kernel are the same memory.
// PYD_SHARED_ARRAY: one of fixed size, beside it.
#if defined(PYD_HOST)
#define PYD_SHARED(T, name) T* const name = reinterpret_cast<T*>(coh::block->shared)
#define PYD_SHARED_ARRAY(T, name, count) \
  T* const name = static_cast<T*>(coh::shared_array(__COUNTER__, sizeof(T) * (count)))
#else
#define PYD_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char pyd_shared[]; \
  T* const name = reinterpret_cast<T*>(pyd_shared)
#define PYD_SHARED_ARRAY(T, name, count) __shared__ __align__(16) T name[count]
#endif

// 16-bit floats: stored so, computed as float. To nearest, ties to even; every NaN becomes 0x7fff.
__device__ __forceinline__ float pyd_half_to_float(uint16_t bits) {
#if defined(PYD_HOST)
  return coh::half_to_float(bits);
#elif defined(PYD_HIP)
  return float(__builtin_bit_cast(_Float16, bits));
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}
__device__ __forceinline__ uint16_t pyd_float_to_half(float value) {
#if defined(PYD_HOST)
  return coh::float_to_half(value);
#elif defined(PYD_HIP)
  return value != value ? uint16_t(0x7fff) : __builtin_bit_cast(uint16_t, _Float16(value));
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}
__device__ __forceinline__ uint16_t pyd_float_to_bf16(float value) {
#if !defined(PYD_HOST) && !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
  uint16_t half_bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half_bits) : "f"(value));
  return half_bits;
#else
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

struct half_t {
  uint16_t bits;
  half_t() = default;
  __device__ __forceinline__ explicit half_t(float value) : bits(pyd_float_to_half(value)) {}
  __device__ __forceinline__ operator float() const { return pyd_half_to_float(bits); }
};
struct bf16_t {
  uint16_t bits;
  bf16_t() = default;
  __device__ __forceinline__ explicit bf16_t(float value) : bits(pyd_float_to_bf16(value)) {}
  __device__ __forceinline__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

// N elements that are read and written at once, 16 bytes at most; written to global memory.
template <class T, int N>
struct __align__(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Pack {
  T v[N];

  static __device__ __forceinline__ Pack load(const T* from) {
    check(from);
    return *reinterpret_cast<const Pack*>(from);
  }
  __device__ __forceinline__ void store(T* to) const {
    check(to);
#if !defined(PYD_HOST) && !defined(PYD_HIP)
    // The compiler makes one store of what branches have in common, and then four of that.
    if constexpr (sizeof(Pack) == 16) {
      uint4 bits;
      memcpy(&bits, this, 16);
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w) : "memory");
      return;
    }
    if constexpr (sizeof(Pack) == 8) {
      uint2 bits;
      memcpy(&bits, this, 8);
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(bits.x), "r"(bits.y) : "memory");
      return;
    }
#endif
    *reinterpret_cast<Pack*>(to) = *this;
  }
  static __device__ __forceinline__ void check(const T* address) {
#if defined(PYD_HOST)
    if (reinterpret_cast<uintptr_t>(address) % alignof(Pack)) coh::fail("misaligned pack");
#endif
    (void)address;
  }
};

// a * b in one instruction, which the compiler does not see in 64 bits of each.
__device__ __forceinline__ int64_t wide_product(int a, int b) {
#if defined(PYD_HOST) || defined(PYD_HIP)
  return int64_t(a) * b;
#else
  int64_t product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#endif
}
__device__ __forceinline__ int64_t wide_product(int64_t a, int64_t b) { return a * b; }

// The same number, of which the compiler knows nothing: it computes nothing from it in advance.
__device__ __forceinline__ int as_unknown(int number) {
#if !defined(PYD_HOST) && !defined(PYD_HIP)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

// *to += values, no addition lost; four floats in one transaction where the hardware has that.
template <class A, int V>
__device__ __forceinline__ void atomic_add(A* to, const A (&values)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) atomicAdd(to + v, values[v]);
}
#if !defined(PYD_HOST) && !defined(PYD_HIP) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void atomic_add(float* to, const float (&values)[4]) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(values[0], values[1], values[2], values[3]));
}
#endif

// 16 bytes on their way from global to shared memory. copies_group ends a group of such copies; all
// groups but the last LATER are there for the thread after copies_done, for the block after the next
// barrier.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
#if defined(PYD_HOST)
  coh::copy_later(to, from);
#elif !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
  const unsigned address = unsigned(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
#else
  *static_cast<Pack<unsigned, 4>*>(to) = *static_cast<const Pack<unsigned, 4>*>(from);
#endif
}
__device__ __forceinline__ void copies_group() {
#if defined(PYD_HOST)
  coh::end_group();
#elif !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LATER>
__device__ __forceinline__ void copies_done() {
#if defined(PYD_HOST)
  coh::copy_now(LATER);
#elif !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}

// Exchange between all lanes of a warp.
__device__ __forceinline__ int lane_of(int thread) { return thread & (PYD_WARP - 1); }
#if defined(PYD_HIP)
#define PYD_SHUFFLE(kind, value, by) __shfl##kind(value, by)
#else
#define PYD_SHUFFLE(kind, value, by) __shfl##kind##_sync(PYD_ALL_LANES, value, by)
#endif
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return PYD_SHUFFLE(, value, lane);
}
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int by) {
  return PYD_SHUFFLE(_xor, value, by);
}
template <class T>
__device__ __forceinline__ T shuffle_down(T value, int by) {
  return PYD_SHUFFLE(_down, value, by);
}
#undef PYD_SHUFFLE
// From lane `source` of the run of `width` lanes (a power of two) that this one is in. All of the run
// take part; other runs may be elsewhere.
template <class T>
__device__ __forceinline__ T shuffle_run(T value, int source, int width) {
#if defined(PYD_HIP)
  return __shfl(value, source, width);
#else
  const unsigned run = width == 32 ? ~0u : (1u << width) - 1;
  return __shfl_sync(run << (lane_of(threadIdx.x) & ~(width - 1)), value, source, width);
#endif
}
// What lanes of a warp wrote to shared memory before, all of them see after.
__device__ __forceinline__ void warp_barrier() {
#if defined(PYD_HIP)
  __threadfence_block();
  __builtin_amdgcn_wave_barrier();
#else
  __syncwarp();
#endif
}
// Sums over each run of `width` lanes (a power of two), the same in all of them.
template <class T, int N>
__device__ __forceinline__ void lanes_sum(T (&values)[N], int width = PYD_WARP) {
  for (int by = width / 2; by > 0; by /= 2)
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += shuffle_xor(values[i], by);
}

// Two floats rounded to 16 bits in one register, the first in the low half.
template <class H>
__device__ __forceinline__ unsigned pack2(float low, float high) {
  return unsigned(H(low).bits) | unsigned(H(high).bits) << 16;
}
#if !defined(PYD_HOST) && !defined(PYD_HIP)
template <>
__device__ __forceinline__ unsigned pack2<half_t>(float low, float high) {
  unsigned both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#if __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ unsigned pack2<bf16_t>(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#endif
#endif

// And back.
template <class H>
__device__ __forceinline__ void unpack2(unsigned both, float& low, float& high);
template <>
__device__ __forceinline__ void unpack2<half_t>(unsigned both, float& low, float& high) {
  low = pyd_half_to_float(uint16_t(both)), high = pyd_half_to_float(uint16_t(both >> 16));
}
template <>
__device__ __forceinline__ void unpack2<bf16_t>(unsigned both, float& low, float& high) {
  low = __uint_as_float(both << 16), high = __uint_as_float(both & 0xffff0000u);
}

// A float's nearest TF32 (10 bits of fraction), ties away from zero.
__device__ __forceinline__ unsigned to_tf32(float value) {
#if defined(PYD_HOST)
  const unsigned bits = __float_as_uint(value);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
#elif !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  return __float_as_uint(value);
#endif
}

// Tensor cores, by all 32 lanes of a warp: d(16x8) += a(16xK) . b(Kx8), fragments as in the PTX ISA.
#if defined(PYD_HOST)
template <void (*PRODUCT)(unsigned char (*)[coh::Exchange::BYTES])>
void pyd_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const unsigned both[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  auto* lanes = coh::exchange(coh::PRODUCT, PYD_ALL_LANES, both, sizeof both, PRODUCT);
  float sum[4];
  memcpy(sum, lanes[coh::lane()], sizeof sum);
  for (int i = 0; i < 4; ++i) d[i] += sum[i];
}
template <class H>
void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
template <>
inline void mma_16816<half_t>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  pyd_product<coh::product_f16>(d, a, b);
}
template <>
inline void mma_16816<bf16_t>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  pyd_product<coh::product_bf16>(d, a, b);
}
inline void mma_1688_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  pyd_product<coh::product_tf32>(d, a, b);
}
#elif !defined(PYD_HIP) && __CUDA_ARCH__ >= 800
#define PYD_MMA(shape, type)                                                                      \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 "                    \
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                            \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <class H>
__device__ __forceinline__ void mma_16816(float (&d)[4], const unsigned (&a)[4],
                                          const unsigned (&b)[2]);
template <>
__device__ __forceinline__ void mma_16816<half_t>(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
  PYD_MMA("m16n8k16", "f16");
}
template <>
__device__ __forceinline__ void mma_16816<bf16_t>(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
  PYD_MMA("m16n8k16", "bf16");
}
__device__ __forceinline__ void mma_1688_tf32(float (&d)[4], const unsigned (&a)[4],
                                              const unsigned (&b)[2]) {
  PYD_MMA("m16n8k8", "tf32");
}
#undef PYD_MMA
#endif
