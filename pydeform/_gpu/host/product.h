// What tensor cores compute, for a whole warp at once. Included by the scheduler alone, which is
// optimised as the kernels are not.
#pragma once
#include "half.h"
#include "runtime.h"

namespace coh {

namespace {

// D(16x8) = A(16xK) . B(Kx8), the fragments of the lanes as the PTX ISA lays them out for mma.
template <int K, class Load>
void product(unsigned char (*lane)[Exchange::BYTES], Load load) {
  float a[16][K], b[K][8], d[16][8] = {};
  for (unsigned l = 0; l < 32; ++l) {
    const unsigned group = l >> 2, in = l & 3;
    uint32_t words[6];
    std::memcpy(words, lane[l], sizeof words);
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned h = 0; h < K / 8; ++h)
        a[group + (i & 1) * 8][(i >> 1) * (K / 2) + in * (K / 8) + h] = load(words[i], h);
    for (unsigned i = 0; i < 2; ++i)
      for (unsigned h = 0; h < K / 8; ++h)
        b[i * (K / 2) + in * (K / 8) + h][group] = load(words[4 + i], h);
  }
  for (int k = 0; k < K; ++k)
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
  for (unsigned l = 0; l < 32; ++l) {
    const unsigned group = l >> 2, in = l & 3;
    const float out[4] = {d[group][2 * in], d[group][2 * in + 1], d[group + 8][2 * in],
                          d[group + 8][2 * in + 1]};
    std::memcpy(lane[l], out, sizeof out);
  }
}

}  // namespace

void product_f16(unsigned char (*lane)[Exchange::BYTES]) {
  product<16>(lane, [](uint32_t w, unsigned h) { return half_to_float(uint16_t(w >> 16 * h)); });
}
void product_bf16(unsigned char (*lane)[Exchange::BYTES]) {
  product<16>(lane, [](uint32_t w, unsigned h) { return bf16_to_float(uint16_t(w >> 16 * h)); });
}
// The units leave out the last 13 bits of an operand.
void product_tf32(unsigned char (*lane)[Exchange::BYTES]) {
  product<8>(lane, [](uint32_t w, unsigned) { return float_of(w & ~0x1fffu); });
}

}  // namespace coh
