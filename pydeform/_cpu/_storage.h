/* float16 and bfloat16 as they lie in memory, to float and back with one rounding to nearest even.
 * Plain integer arithmetic: no instruction set is asked for, and compilers vectorise it. */
#ifndef PYDEFORM_STORAGE_H
#define PYDEFORM_STORAGE_H

#include <stdint.h>
#include <string.h>

static inline float pyd_bits_to_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t pyd_float_to_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float pyd_from_bfloat16(uint16_t h) { return pyd_bits_to_float((uint32_t)h << 16); }

static inline uint16_t pyd_to_bfloat16(float f) {
    const uint32_t u = pyd_float_to_bits(f);
    const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40) : rounded); /* quiet NaN */
}

static inline float pyd_from_float16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, body = h & 0x7fffu;
    if (body >= 0x7c00u) return pyd_bits_to_float(sign | 0x7f800000u | (body & 0x3ffu) << 13);
    /* 2**112 moves the exponent's bias and makes subnormal numbers right as well. */
    const float scaled = pyd_bits_to_float(body << 13) * 0x1p112f;
    return pyd_bits_to_float(sign | pyd_float_to_bits(scaled));
}

static inline uint16_t pyd_to_float16(float f) {
    const uint32_t u = pyd_float_to_bits(f), sign = u >> 16 & 0x8000u;
    uint32_t body = u & 0x7fffffffu;
    if (body > 0x7f800000u) return (uint16_t)(sign | 0x7e00u); /* NaN */
    if (body >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past 65504: Inf */
    if (body < 0x38800000u) { /* subnormal: adding 0.5 leaves the rounded bits at the bottom */
        const float shifted = pyd_bits_to_float(body) + 0.5f;
        return (uint16_t)(sign | (pyd_float_to_bits(shifted) - 0x3f000000u));
    }
    body += 0xfffu + (body >> 13 & 1) - 0x38000000u;
    return (uint16_t)(sign | body >> 13);
}

#endif
