/* The kernels for float and double at one instruction set: ISA and REGISTER are set before. */

#include <stdint.h>
#include <string.h>

#include "_simd.h"
#include "_storage.h"

#define REAL float
#define MASK_INT int32_t
#define SUFFIX f32
#define IS_DOUBLE 0
#include "_kernels.h"

#define REAL double
#define MASK_INT int64_t
#define SUFFIX f64
#define IS_DOUBLE 1
#include "_kernels.h"
