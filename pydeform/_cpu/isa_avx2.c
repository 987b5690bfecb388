#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ISA pyd_avx2
#define REGISTER 32
#include "_both_reals.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int pyd_no_avx2; /* not this processor: an empty file is not C */
#endif
