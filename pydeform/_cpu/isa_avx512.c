#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
#endif
#define ISA pyd_avx512
#define REGISTER 64
#include "_both_reals.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int pyd_no_avx512; /* not this processor: an empty file is not C */
#endif
