// 16-bit floats as the GPU converts them: to nearest, ties to even, one NaN.
#pragma once
#include <cstdint>
#include <cstring>

namespace coh {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x400u) return float_of(sign | ((rest << 13) + (112u << 23)));
  return float_of(sign | bits_of(float(rest) * 0x1p-24f));
}
inline uint16_t float_to_half(float value) {
  uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return 0x7fff;
  if (bits >= 0x47800000u) return uint16_t(sign | 0x7c00u);
  // Below the smallest normal half, the spacing of floats from 0.5 on is that of halves.
  if (bits < 0x38800000u) return uint16_t(sign | (bits_of(float_of(bits) + 0.5f) - 0x3f000000u));
  return uint16_t(sign | ((bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13));
}
inline float bf16_to_float(uint16_t value) { return float_of(uint32_t(value) << 16); }
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace coh
