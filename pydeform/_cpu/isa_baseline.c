/* 16-byte registers: SSE2 on x86-64, NEON on Arm, whatever the compiler makes of them elsewhere. */
#define ISA pyd_baseline
#define REGISTER 16
#include "_both_reals.h"
