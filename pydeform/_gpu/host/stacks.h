// Stacks that the threads of a block run on, and the switch between them and the scheduler.
// Included by the scheduler alone.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "runtime.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if !(defined(__x86_64__) && defined(__ELF__)) && !defined(COH_UCONTEXT)
#define COH_UCONTEXT 1
#endif
#ifdef COH_UCONTEXT
#include <ucontext.h>
#endif

namespace coh {

struct Stack {
  void* pointer;
  unsigned char *bottom, *top;
};

namespace {

const size_t PAGE = size_t(sysconf(_SC_PAGESIZE));
constexpr size_t STACK = 64 * 1024;

void life();  // what runs on a stack; it never returns

#ifdef COH_UCONTEXT
COH_TLS ucontext_t* scheduler = nullptr;
#else
COH_TLS void* scheduler = nullptr;
extern "C" void coh_switch(void** save, void* load);
asm(R"(.text
.hidden coh_switch
.globl coh_switch
.type coh_switch,@function
coh_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi); movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
 popq %rcx; jmp *%rcx
.size coh_switch,.-coh_switch
)");
#endif

__attribute__((noinline)) void leave() {
#ifdef COH_UCONTEXT
  swapcontext(static_cast<ucontext_t*>(fiber->stack->pointer), scheduler);
#else
  coh_switch(&fiber->stack->pointer, scheduler);
#endif
}

// A fresh stack, whose first switch enters life().
void prime(Stack& s) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(s.bottom, STACK);
#endif
#ifdef COH_UCONTEXT
  if (!s.pointer) s.pointer = new ucontext_t;
  auto* context = static_cast<ucontext_t*>(s.pointer);
  getcontext(context);
  context->uc_stack.ss_sp = s.bottom;
  context->uc_stack.ss_size = size_t(s.top - s.bottom);
  context->uc_link = nullptr;
  makecontext(context, life, 0);
#else
  void** p = reinterpret_cast<void**>(s.top);
  *--p = nullptr;  // where life() would return to
  *--p = reinterpret_cast<void*>(&life);
  for (int i = 0; i < 6; ++i) *--p = nullptr;
  s.pointer = p;
#endif
}

void resume(Fiber& f) {
  fiber = &f;
#ifdef COH_UCONTEXT
  swapcontext(scheduler, static_cast<ucontext_t*>(f.stack->pointer));
#else
  coh_switch(&scheduler, f.stack->pointer);
#endif
}

// A pool. The last one given back is the first one taken: threads that never wait share one, warm.
class Stacks {
 public:
  Stack* take() {
    if (idle.empty()) make(32);
    Stack* s = idle.back();
    idle.pop_back();
    return s;
  }
  void give(Fiber& f) {
    idle.push_back(f.stack);
    f.stack = nullptr;
  }

 private:
  std::vector<Stack*> idle;
  size_t made = 0;

  // A page without access below each; tops at many offsets in a page, so that the stacks do not
  // share cache sets.
  void make(size_t count) {
    const size_t pitch = STACK + PAGE;
    void* mapped = mmap(nullptr, pitch * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    auto* base = static_cast<unsigned char*>(mapped);
    for (size_t i = count; i-- > 0; ++made) {
      mprotect(base + pitch * i, PAGE, PROT_NONE);
      auto* s = new Stack{};
      s->bottom = base + pitch * i + PAGE;
      s->top = s->bottom + STACK - made * 576 % 4096;
      prime(*s);
      idle.push_back(s);
    }
  }
};

}  // namespace
}  // namespace coh
