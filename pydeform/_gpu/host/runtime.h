// How blocks and threads of a kernel run on a CPU: one fiber per CUDA thread, one OS thread per
// block. A fiber gives up the CPU only where CUDA threads wait for each other, so an unsynchronised
// access keeps the order of the schedule, and another schedule shows it.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

namespace coh {

enum State : uint8_t { DONE, READY, AT_BARRIER, AT_WARP };

// What the lanes of one mask exchange. Two buffers: a lane may be at the next exchange while
// another still reads this one, but not two ahead.
struct Exchange {
  static constexpr unsigned BYTES = 32;
  uint32_t arrived, mask;
  int operation;
  unsigned parity;
  alignas(16) unsigned char lane[2][32][BYTES];
};

struct Stack;

struct Fiber {
  Stack* stack;  // from its first step to its return
  State state;
  uint3 thread;
  unsigned index;  // in the block, x fastest
};

struct Block {
  dim3 grid, block;
  uint3 index;
  unsigned threads;
  unsigned char* shared;
  Fiber* fibers;
  Exchange* exchanges;  // one per lane: that of a mask belongs to its lowest lane
  unsigned live, waiting;
  int site;  // of the barrier that threads wait at
  int votes, result[2];
  unsigned parity;
};

// Of the OS thread. initial-exec: the plain access, without a call.
#if defined(__ELF__)
#define COH_TLS __thread __attribute__((tls_model("initial-exec")))
#else
#define COH_TLS __thread
#endif
extern COH_TLS Block* block;
extern COH_TLS Fiber* fiber;

// Ends the launch with this error; the fiber does not come back.
[[noreturn]] void fail(const char* message);
int barrier(int site, int vote);
// A shared array of fixed size: of the block, and by the place where it is declared.
void* shared_array(int site, size_t bytes);
// Puts a lane's value and waits until all lanes of the mask have: what they put, one after another.
// The last to come runs `combine` over it first, if there is one.
typedef void (*Combine)(unsigned char (*lane)[Exchange::BYTES]);
unsigned char (*exchange(int operation, uint32_t mask, const void* value, unsigned bytes,
                         Combine combine))[Exchange::BYTES];
// Matrix products of a warp in place: each lane's bytes are {A, B} on the way in, {A . B} out.
void product_f16(unsigned char (*lane)[Exchange::BYTES]);
void product_bf16(unsigned char (*lane)[Exchange::BYTES]);
void product_tf32(unsigned char (*lane)[Exchange::BYTES]);

}  // namespace coh
