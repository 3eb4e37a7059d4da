// y = x w + b in bfloat16, summed in float32 and rounded once, by the processor's products of pairs
// (AVX-512 BF16).
//
// A panel of COLUMNS columns of w is packed when it is read, two rows interleaved. It is multiplied
// by all rows of x, TALL at a time, whose sums fill the registers. float32 is left to XLA, whose
// product is as fast.
#pragma once

#include "common.h"

#ifdef __AVX512BF16__

namespace causalcine {

struct Matrices {
  int64_t rows, inner, columns;
};

constexpr int TALL = 12, WIDE = 2, COLUMNS = LANES * WIDE;
constexpr int MOST_PANELS = 2;  // panels that share the rows of x while those are in the L1 cache

inline void pack(const bfloat16* w, const Matrices& m, int count, uint32_t* packed) {
  for (int64_t k = 0; k < m.inner; k += 2, packed += COLUMNS) {
    const bfloat16 *low = w + k * m.columns, *high = low + m.columns;
    const bool both = k + 1 < m.inner;
    if (both && count == COLUMNS)
      for (int i = 0; i < COLUMNS; ++i) packed[i] = low[i] | uint32_t(high[i]) << 16;
    else
      for (int i = 0; i < COLUMNS; ++i) packed[i] = i < count ? low[i] | (both ? uint32_t(high[i]) << 16 : 0) : 0;
  }
}

// Sums of the products of TALL rows, `apart` numbers from one another, with a panel
inline void multiply(const bfloat16* rows, int64_t apart, const uint32_t* packed, int64_t inner, Vector (&sum)[TALL][WIDE]) {
  for (int64_t k = 0; k < inner; k += 2, packed += COLUMNS)
#pragma GCC unroll 12
    for (int r = 0; r < TALL; ++r)
#pragma GCC unroll 2
      for (int i = 0; i < WIDE; ++i) sum[r][i] = add_products(sum[r][i], rows + r * apart + k, ((const __m512bh*)packed)[i]);
}

inline void write(const Vector (&sum)[WIDE], const float* bias, int count, bfloat16* y) {
  alignas(64) float line[COLUMNS];
  for (int i = 0; i < WIDE; ++i) ((Vector*)line)[i] = sum[i] + ((const Vector*)bias)[i];
  if (count == COLUMNS)
    for (int i = 0; i < COLUMNS; i += LANES) _mm256_storeu_si256((__m256i*)(y + i), (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(line + i)));
  else
    for (int i = 0; i < count; ++i) narrow(line[i], y[i]);
}

inline void linear(xla::ffi::ThreadPool& pool, const bfloat16* x, const bfloat16* w, const bfloat16* b, bfloat16* y, const Matrices& m) {
  const int64_t panels = (m.columns + COLUMNS - 1) / COLUMNS, threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t share = panels >= 8 * MOST_PANELS * threads ? MOST_PANELS : 1;
  const int64_t panel_size = (m.inner + 1) / 2 * COLUMNS;
  // Rows of x are copied to a stride of an odd number of cache lines. At their own stride they may
  // all map to one cache set.
  const int64_t apart = (m.inner / 64 * 2 + 3) * 32;
  in_parallel(pool, (panels + share - 1) / share, [&](int64_t task) {
    const int64_t first = task * share, last = std::min(panels, first + share);
    uint32_t* packed = (uint32_t*)scratch(share * panel_size * 4 + TALL * apart * 2);
    bfloat16* held = (bfloat16*)(packed + share * panel_size);
    const auto count_of = [&](int64_t panel) { return int(std::min<int64_t>(COLUMNS, m.columns - panel * COLUMNS)); };
    alignas(64) float bias[MOST_PANELS * COLUMNS] = {};
    for (int64_t panel = first; panel < last; ++panel) {
      pack(w + panel * COLUMNS, m, count_of(panel), packed + (panel - first) * panel_size);
      for (int i = 0; i < count_of(panel); ++i) bias[(panel - first) * COLUMNS + i] = wide(b[panel * COLUMNS + i]);
    }
    std::memset(held, 0, TALL * apart * 2);  // the last pair of an odd row ends with a zero
    for (int64_t row = 0; row < m.rows; row += TALL) {
      const int tall = std::min<int64_t>(TALL, m.rows - row);
      for (int r = 0; r < tall; ++r) std::memcpy(held + r * apart, x + (row + r) * m.inner, m.inner * sizeof(bfloat16));
      for (int64_t panel = first; panel < last; ++panel) {
        Vector sum[TALL][WIDE] = {};
        multiply(held, apart, packed + (panel - first) * panel_size, m.inner, sum);
        for (int r = 0; r < tall; ++r)
          write(sum[r], bias + (panel - first) * COLUMNS, count_of(panel), y + (row + r) * m.columns + panel * COLUMNS);
      }
    }
  });
}

}  // namespace causalcine

#endif
