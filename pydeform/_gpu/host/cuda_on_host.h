// CUDA C++ for a CPU's compiler: the part of the language that the kernels use. Included before a
// kernel's source; what the threads do to each other is in runtime.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "half.h"
#include "runtime.h"

#define PYD_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __shared__ static thread_local  // all fibers of a block run on one thread

// Every thread of a block runs on one OS thread. PYD_SHARED_ARRAY does more: it is filled anew for
// each block, and writes past its end are seen.
#define __shared__ static thread_local

#define threadIdx (coh::fiber->thread)
#define blockIdx (coh::block->index)
#define blockDim (coh::block->block)
#define gridDim (coh::block->grid)
#define warpSize 32

// __COUNTER__ tells one barrier of the source from another.
#define __syncthreads() ((void)coh::barrier(__COUNTER__, 0))
#define __syncthreads_count(vote) coh::barrier(__COUNTER__, (vote) ? 1 : 0)
#define __syncthreads_or(vote) (coh::barrier(__COUNTER__, (vote) ? 1 : 0) != 0)

#define COH_VECTOR(T, NAME)                                                              \
  struct alignas(2 * sizeof(T)) NAME##2 {                                                \
    T x, y;                                                                              \
  };                                                                                     \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) NAME##4 {                           \
    T x, y, z, w;                                                                        \
  };                                                                                     \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                             \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
COH_VECTOR(float, float)
COH_VECTOR(double, double)
COH_VECTOR(int, int)
COH_VECTOR(unsigned, uint)
COH_VECTOR(unsigned short, ushort)
#undef COH_VECTOR

namespace coh {

enum Operation { SYNC, SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, PRODUCT };

// The value of another lane; `source` is counted from the lane's segment of `width` lanes.
template <class T>
T shuffle(Operation operation, unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= Exchange::BYTES, "too much for one shuffle");
  auto* lanes = exchange(operation, mask, &value, sizeof(T), nullptr);
  if (!(mask >> source & 1)) fail("a shuffle reads a lane that is not in its mask");
  std::memcpy(&value, lanes[source], sizeof(T));
  return value;
}
inline unsigned lane() { return fiber->index & 31; }

// Asynchronous copies of 16 bytes: nothing of them is to be seen before they are waited for.
struct Copy {
  void* to;
  const void* from;
  int group;
};
struct Pending {
  std::vector<Copy> copies;
  int group;  // that of the next copy
};
inline thread_local Pending pending[1024];
inline void copy_later(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15)
    fail("misaligned asynchronous copy");
  Pending& mine = pending[fiber->index];
  mine.copies.push_back({to, from, mine.group});
}
inline void end_group() { ++pending[fiber->index].group; }
// All groups that have ended, but the last `later` of them.
inline void copy_now(int later) {
  Pending& mine = pending[fiber->index];
  auto copy = mine.copies.begin();
  for (; copy != mine.copies.end() && copy->group < mine.group - later; ++copy)
    std::memcpy(copy->to, copy->from, 16);
  mine.copies.erase(mine.copies.begin(), copy);
}
// Around a kernel: what an ended launch has left is forgotten, what this one leaves is an error.
struct Copies {
  Copies() { pending[fiber->index] = Pending{}; }
  ~Copies() {
    if (!pending[fiber->index].copies.empty()) fail("an asynchronous copy that nothing waits for");
  }
};

}  // namespace coh

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  coh::exchange(coh::SYNC, mask, nullptr, 0, nullptr);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned low = unsigned(width) - 1;
  return coh::shuffle(coh::SHUFFLE, mask, value, (coh::lane() & ~low) | (unsigned(source) & low));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const unsigned lane = coh::lane(), low = unsigned(width) - 1;
  return coh::shuffle(coh::SHUFFLE_UP, mask, value, (lane & low) >= by ? lane - by : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const unsigned lane = coh::lane(), low = unsigned(width) - 1;
  return coh::shuffle(coh::SHUFFLE_DOWN, mask, value, (lane & low) + by <= low ? lane + by : lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
  const unsigned lane = coh::lane(), low = unsigned(width) - 1, other = lane ^ unsigned(by);
  return coh::shuffle(coh::SHUFFLE_XOR, mask, value,
                      (other & ~low) <= (lane & ~low) ? other : lane);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  auto* lanes = coh::exchange(coh::BALLOT, mask, &vote, sizeof vote, nullptr);
  unsigned all = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (mask >> i & 1) std::memcpy(&vote, lanes[i], sizeof vote);
    if (mask >> i & 1 && vote) all |= 1u << i;
  }
  return all;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }

template <class T>
T atomicAdd(T* address, T value) {
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  } else {
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    static_assert(sizeof(T) == sizeof(Bits), "an atomic sum of float or double");
    Bits* bits = reinterpret_cast<Bits*>(address);
    Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED), sum_bits;
    T before, sum;
    do {
      std::memcpy(&before, &old, sizeof before);
      sum = before + value;
      std::memcpy(&sum_bits, &sum, sizeof sum);
    } while (!__atomic_compare_exchange_n(bits, &old, sum_bits, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return before;
  }
}
template <class T>
T atomicMax(T* address, T value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED,
                                                     __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(unsigned(value)) : 32; }
inline unsigned __float_as_uint(float value) { return coh::bits_of(value); }
inline int __float_as_int(float value) { return int(coh::bits_of(value)); }
inline float __uint_as_float(unsigned value) { return coh::float_of(value); }
inline float __int_as_float(int value) { return coh::float_of(unsigned(value)); }
inline int __float2int_rd(float value) { return int(std::floor(value)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

// CUDA has these for every mixture of arithmetic types, as the language converts them.
template <class T, class U>
constexpr std::common_type_t<T, U> min(T a, U b) {
  using R = std::common_type_t<T, U>;
  return R(b) < R(a) ? R(b) : R(a);
}
template <class T, class U>
constexpr std::common_type_t<T, U> max(T a, U b) {
  using R = std::common_type_t<T, U>;
  return R(a) < R(b) ? R(b) : R(a);
}
using std::abs;
using std::ceil;
using std::fabs;
using std::floor;
using std::fma;
using std::isfinite;
using std::rint;
using std::sqrt;
