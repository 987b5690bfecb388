// The scheduler: see runtime.h. Built once, loaded before the libraries of kernels.
#include "runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "product.h"
#include "stacks.h"

namespace coh {

COH_TLS Block* block = nullptr;
COH_TLS Fiber* fiber = nullptr;

namespace {

constexpr unsigned char CANARY = 0xC3;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t CANARIES = 0;
#else
constexpr size_t CANARIES = 64;
#endif

struct Launch {
  void (*kernel)(void*);
  void* arguments;
  dim3 grid, block;
  size_t shared;
  unsigned seed;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex lock;
  std::string message;
};

COH_TLS Launch* current = nullptr;

// A stack lives on from launch to launch: each time round it is one thread of one block, and not
// always on the OS thread of before. So no address of an OS thread's variable may stay in life().
__attribute__((noinline)) void run_thread() {
  current->kernel(current->arguments);
  fiber->state = DONE;
}
void life() {
  for (;;) {
    run_thread();
    leave();
  }
}

// Memory of a block, filled anew for each. To the byte, so that AddressSanitizer sees the first one
// past it; without it, canaries do.
struct Shared {
  int site = -1;  // of an array of fixed size
  size_t size = 0;
  unsigned char* bytes = nullptr;
  bool fresh = false;  // not of this block yet

  void hold(size_t count) {
    if (bytes && size == count) return;
    std::free(bytes);
    void* p = nullptr;
    if (posix_memalign(&p, 128, count + CANARIES)) std::abort();
    bytes = static_cast<unsigned char*>(p);
    size = count;
  }
  // Not a number in any type of float, and large numbers in other schedules: what reads shared
  // memory that nobody wrote does not go unseen.
  void fill(unsigned seed) {
    std::memset(bytes, seed ? int(0x41 + seed % 0x3D) : 0xFF, size);
    std::memset(bytes + size, CANARY, CANARIES);
  }
  bool sound() const {
    return std::all_of(bytes + size, bytes + size + CANARIES,
                       [](unsigned char c) { return c == CANARY; });
  }
};

// What one OS thread needs to run blocks; kept for the next launch.
struct Worker {
  std::vector<Fiber> fibers;
  std::vector<Exchange> exchanges;
  std::vector<unsigned> order;
  Stacks stacks;
  Shared dynamic;
  std::vector<Shared> arrays;  // of the kernel's declarations, as its threads reach them

  void hold(unsigned threads, size_t bytes) {
    if (fibers.size() < threads) {
      fibers.resize(threads);
      exchanges.resize((threads + 31) / 32 * 32);
    }
    dynamic.hold(bytes);
    for (auto& array : arrays) std::free(array.bytes);
    arrays.clear();
  }
};

COH_TLS Worker* mine = nullptr;

std::mutex idle_lock;
std::vector<Worker*> idle;

uint32_t next_random(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

void set_failed(Launch& launch, const char* message) {
  std::lock_guard<std::mutex> hold(launch.lock);
  if (launch.failed.exchange(true)) return;
  char where[96];
  std::snprintf(where, sizeof where, " (block %u,%u,%u", block->index.x, block->index.y,
                block->index.z);
  launch.message = std::string(message) + where;
  if (fiber) launch.message += ", thread " + std::to_string(fiber->index);
  launch.message += ")";
}

// The barrier opens when every thread of the block stands at it. A thread that has returned never
// will: CUDA leaves that undefined, some GPUs wait forever.
void open_barrier(Launch& launch, Block& b) {
  if (b.live != b.threads) {
    fiber = nullptr;
    set_failed(launch, "divergent barrier: some threads of the block have returned");
    return;
  }
  b.result[b.parity] = b.votes;
  b.parity ^= 1;
  b.votes = 0;
  b.waiting = 0;
  for (unsigned i = 0; i < b.threads; ++i)
    if (b.fibers[i].state == AT_BARRIER) b.fibers[i].state = READY;
}

void run_block(Launch& launch, Block& b, Worker& worker, uint32_t random) {
  const unsigned n = b.threads;
  auto& order = worker.order;
  b.live = n;
  b.waiting = 0;
  b.votes = 0;
  b.parity = 0;
  for (unsigned i = 0; i < n; ++i) b.fibers[i].state = READY;
  while (b.live) {
    if (launch.seed > 1)
      for (unsigned i = n - 1; i > 0; --i) std::swap(order[i], order[next_random(random) % (i + 1)]);
    bool moved = false;
    for (unsigned k = 0; k < n; ++k) {
      Fiber& f = b.fibers[order[k]];
      if (f.state != READY) continue;
      moved = true;
      if (!f.stack) f.stack = worker.stacks.take();
      resume(f);
      if (f.state == DONE) {
        worker.stacks.give(f);
        --b.live;
      }
      if (launch.failed.load(std::memory_order_relaxed)) return;
    }
    if (b.waiting && b.waiting == b.live) {
      open_barrier(launch, b);
    } else if (!moved) {
      bool warp = false;
      for (unsigned i = 0; i < n; ++i) warp |= b.fibers[i].state == AT_WARP;
      fiber = nullptr;
      set_failed(launch, warp ? "warp deadlock: a lane named in a mask never arrives"
                              : "barrier deadlock: some threads of the block never arrive");
    }
    if (launch.failed.load(std::memory_order_relaxed)) return;
  }
}

void work(Launch& launch) {
  Worker* worker = nullptr;
  {
    std::lock_guard<std::mutex> hold(idle_lock);
    if (!idle.empty()) {
      worker = idle.back();
      idle.pop_back();
    }
  }
  if (!worker) worker = new Worker;
  const dim3 grid = launch.grid, size = launch.block;
  Block b{};
  b.grid = grid;
  b.block = size;
  b.threads = size.x * size.y * size.z;
  worker->hold(b.threads, launch.shared);
  b.fibers = worker->fibers.data();
  b.exchanges = worker->exchanges.data();
  b.shared = worker->dynamic.bytes;
  auto& order = worker->order;
  order.resize(b.threads);
  for (unsigned i = 0; i < b.threads; ++i) {
    order[i] = launch.seed == 1 ? b.threads - 1 - i : i;
    b.fibers[i].index = i;
    b.fibers[i].thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
  }
  const size_t blocks = size_t(grid.x) * grid.y * grid.z;
  size_t stride = blocks / 2 + launch.seed % (blocks / 2 + 1);
  while (std::gcd(stride, blocks) != 1) ++stride;
#ifdef COH_UCONTEXT
  ucontext_t here;
  ucontext_t* const outer = scheduler;
  scheduler = &here;
#endif
  block = &b;
  mine = worker;
  current = &launch;
  for (size_t i; (i = launch.next++) < blocks && !launch.failed;) {
    uint32_t random = launch.seed * 2654435761u + uint32_t(i);
    if (launch.seed == 1) i = blocks - 1 - i;
    if (launch.seed > 1) i = (i * stride + launch.seed) % blocks;
    b.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y),
               unsigned(i / (size_t(grid.x) * grid.y))};
    worker->dynamic.fill(launch.seed);
    for (auto& array : worker->arrays) array.fresh = true;
    fiber = nullptr;
    run_block(launch, b, *worker, random);
    bool sound = worker->dynamic.sound();
    for (auto& array : worker->arrays) sound &= array.sound();
    fiber = nullptr;
    if (!sound) set_failed(launch, "write past the end of shared memory");
  }
  if (launch.failed)  // stacks that end in the middle of a kernel, exchanges that never took place
    for (unsigned i = 0; i < b.threads; ++i) {
      b.exchanges[i].arrived = 0;
      if (!b.fibers[i].stack) continue;
      prime(*b.fibers[i].stack);
      worker->stacks.give(b.fibers[i]);
    }
  block = nullptr;
  fiber = nullptr;
  current = nullptr;
#ifdef COH_UCONTEXT
  scheduler = outer;
#endif
  std::lock_guard<std::mutex> hold(idle_lock);
  idle.push_back(worker);
}

}  // namespace

void fail(const char* message) {
  set_failed(*current, message);
  fiber->state = AT_WARP;  // not done: its stack is made anew
  leave();
  std::abort();
}

void* shared_array(int site, size_t bytes) {
  for (auto& array : mine->arrays) {
    if (array.site != site || array.size != bytes) continue;
    if (array.fresh) array.fill(current->seed);
    array.fresh = false;
    return array.bytes;
  }
  mine->arrays.emplace_back();
  mine->arrays.back().site = site;
  mine->arrays.back().hold(bytes);
  mine->arrays.back().fill(current->seed);
  return mine->arrays.back().bytes;
}

int barrier(int site, int vote) {
  Block* b = block;
  if (b->waiting && b->site != site) fail("divergent barrier: threads wait at two of them");
  b->site = site;
  ++b->waiting;
  b->votes += vote ? 1 : 0;
  const unsigned parity = b->parity;
  fiber->state = AT_BARRIER;
  leave();
  return b->result[parity];
}

unsigned char (*exchange(int operation, uint32_t mask, const void* value, unsigned bytes,
                         Combine combine))[Exchange::BYTES] {
  const unsigned lane = fiber->index & 31, first = fiber->index - lane;
  if (!(mask >> lane & 1)) fail("a lane is not in the mask that it names");
  Exchange& e = block->exchanges[first + unsigned(__builtin_ctz(mask))];
  if (e.arrived && e.mask != mask) fail("lanes of a warp name different masks");
  if (e.arrived && e.operation != operation) fail("lanes of a warp are at different operations");
  auto* put = e.lane[e.parity];
  if (bytes) std::memcpy(put[lane], value, bytes);
  e.mask = mask;
  e.operation = operation;
  e.arrived |= 1u << lane;
  if (e.arrived != mask) {
    fiber->state = AT_WARP;
    leave();
    return put;
  }
  if (combine) combine(put);
  e.arrived = 0;
  e.parity ^= 1;
  for (uint32_t rest = mask & ~(1u << lane); rest; rest &= rest - 1)
    block->fibers[first + unsigned(__builtin_ctz(rest))].state = READY;
  return put;
}

}  // namespace coh

// Runs a kernel; 0, or 1 with the error in `message`.
extern "C" int coh_launch(void (*kernel)(void*), void* arguments, const unsigned* shape,
                          size_t shared, unsigned threads, unsigned seed, char* message,
                          size_t length) {
  using namespace coh;
  Launch launch;
  launch.kernel = kernel;
  launch.arguments = arguments;
  launch.grid = {shape[0], shape[1], shape[2]};
  launch.block = {shape[3], shape[4], shape[5]};
  launch.shared = shared;
  launch.seed = seed;
  const size_t blocks = size_t(shape[0]) * shape[1] * shape[2];
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min<size_t>(threads, blocks); ++i)
    others.emplace_back([&launch] { work(launch); });
  work(launch);
  for (auto& other : others) other.join();
  if (launch.failed) std::snprintf(message, length, "%s", launch.message.c_str());
  return launch.failed ? 1 : 0;
}
