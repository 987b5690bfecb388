// Mistakes, each beside what would have been right: FAULT = 1 has it, FAULT = 0 does not.
#include "_types.cuh"

struct fault_args {
  const float* x;
  float* y;
  int64_t n;
};

// kernel: missing_barrier args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void missing_barrier(const fault_args& a) {
  PYD_SHARED(float, held);
  const int t = int(threadIdx.x);
  held[t] = a.x[t];
  if (!FAULT) __syncthreads();
  a.y[t] = held[(t + 1) % int(blockDim.x)];
}

// Read, then overwrite: the barrier between them is missing.
// kernel: missing_second_barrier args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void missing_second_barrier(const fault_args& a) {
  PYD_SHARED(float, held);
  const int t = int(threadIdx.x);
  float sum = 0;
  for (int round = 1; round < 4; ++round) {
    held[t] = a.x[t] * float(round);
    __syncthreads();
    sum += held[(t + 40) % int(blockDim.x)];
    if (!FAULT) __syncthreads();
  }
  a.y[t] = sum;
}

// kernel: missing_warp_barrier args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void missing_warp_barrier(const fault_args& a) {
  PYD_SHARED(float, held);
  const int t = int(threadIdx.x), lane = lane_of(t);
  held[t] = a.x[t];
  if (!FAULT) __syncwarp();
  a.y[t] = held[t - lane + (lane + 1) % PYD_WARP];
}

// All blocks write the same place.
// kernel: racing_blocks args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void racing_blocks(const fault_args& a) {
  const int t = int(threadIdx.x), i = int(blockIdx.x * blockDim.x) + t;
  a.y[FAULT ? t : i] = a.x[t] * float(blockIdx.x);
}

// A sum whose order is left to chance.
// kernel: unordered_sum args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void unordered_sum(const fault_args& a) {
  if (FAULT) {
    atomicAdd(a.y, a.x[threadIdx.x]);
  } else if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < int(blockDim.x); ++i) sum += a.x[i];
    a.y[0] = sum;
  }
}

// kernel: unwritten_shared args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void unwritten_shared(const fault_args& a) {
  PYD_SHARED(float, held);
  const int t = int(threadIdx.x);
  if (!FAULT || t != 77) held[t] = a.x[t];
  __syncthreads();
  a.y[t] = held[int(blockDim.x) - 1 - t];
}

// kernel: barrier_in_branch args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void barrier_in_branch(const fault_args& a) {
  if (!FAULT || threadIdx.x < 100) __syncthreads();
  a.y[threadIdx.x] = 1;
  if (FAULT) __shfl_sync(PYD_ALL_LANES, 1, 0);  // so that the others have not returned
}

// kernel: barrier_after_return args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void barrier_after_return(const fault_args& a) {
  if (FAULT && threadIdx.x >= 100) return;
  __syncthreads();
  a.y[threadIdx.x] = 1;
}

// kernel: two_barriers args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void two_barriers(const fault_args& a) {
  if (FAULT && threadIdx.x >= 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  a.y[threadIdx.x] = 1;
}

// kernel: lane_outside_its_mask args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void lane_outside_its_mask(const fault_args& a) {
  const int lane = lane_of(int(threadIdx.x));
  if (FAULT || lane < 16) a.y[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, a.x[threadIdx.x], 1);
}

// kernel: different_masks args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void different_masks(const fault_args& a) {
  const int lane = lane_of(int(threadIdx.x));
  const unsigned mask = FAULT && lane == 31 ? 0xf000000fu : 0xffffffffu;
  a.y[threadIdx.x] = __shfl_sync(mask, a.x[threadIdx.x], 0);
}

// kernel: shuffle_from_outside args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void shuffle_from_outside(const fault_args& a) {
  if (lane_of(int(threadIdx.x)) < 16)
    a.y[threadIdx.x] = __shfl_sync(0x0000ffffu, a.x[threadIdx.x], FAULT ? 20 : 2);
}

// kernel: lane_never_arrives args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void lane_never_arrives(const fault_args& a) {
  if (!FAULT || lane_of(int(threadIdx.x)) < 30)
    a.y[threadIdx.x] = __shfl_down_sync(PYD_ALL_LANES, a.x[threadIdx.x], 1);
}

// kernel: different_operations args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void different_operations(const fault_args& a) {
  if (FAULT && lane_of(int(threadIdx.x)) == 3) {
    __syncwarp();
    a.y[threadIdx.x] = 1;
  } else {
    a.y[threadIdx.x] = __shfl_down_sync(PYD_ALL_LANES, a.x[threadIdx.x], 1);
  }
}

// kernel: past_shared args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void past_shared(const fault_args& a) {
  PYD_SHARED(float, held);
  const int t = int(threadIdx.x);
  held[t + FAULT] = a.x[t];
  __syncthreads();
  a.y[t] = held[t];
}

// kernel: past_an_array args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void past_an_array(const fault_args& a) {
  PYD_SHARED_ARRAY(float, held, 128);
  const int t = int(threadIdx.x);
  held[t + FAULT] = a.x[t];
  __syncthreads();
  a.y[t] = held[t];
}

// What the block before has left is not there on a GPU.
// kernel: unwritten_array args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void unwritten_array(const fault_args& a) {
  PYD_SHARED_ARRAY(float, held, 128);
  const int t = int(threadIdx.x);
  if (!FAULT || blockIdx.x == 0) held[t] = a.x[t];
  __syncthreads();
  a.y[t] = held[127 - t];
}

// kernel: misaligned_pack args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void misaligned_pack(const fault_args& a) {
  if (threadIdx.x < 8) Pack<float, 4>::load(a.x + 4 * threadIdx.x + FAULT).store(a.y + 4 * threadIdx.x);
}

// kernel: misaligned_cast args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void misaligned_cast(const fault_args& a) {
  if (threadIdx.x < 8)
    reinterpret_cast<float4*>(a.y)[threadIdx.x] =
        *reinterpret_cast<const float4*>(a.x + 4 * threadIdx.x + FAULT);
}

// kernel: read_past_the_end args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void read_past_the_end(const fault_args& a) {
  a.y[threadIdx.x] = a.x[threadIdx.x + FAULT];
}

// kernel: write_before_the_start args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void write_before_the_start(const fault_args& a) {
  a.y[int(threadIdx.x) - FAULT] = a.x[threadIdx.x];
}

// kernel: overflow args=fault_args threads=128
// instances: FAULT = 0 | 1
template <int FAULT>
__device__ void overflow(const fault_args& a) {
  const int big = 0x7fffffff - int(a.n) + 2;
  a.y[threadIdx.x] = float(big + (int(threadIdx.x) - !FAULT));
}
