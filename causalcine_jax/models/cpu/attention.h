// softmax(q k^T / sqrt(d)) v in one pass over blocks of keys, as in FlashAttention
// (https://arxiv.org/abs/2205.14135): no score is written to memory.
//
// A register holds LANES queries side by side. Scores are stored as [keys, queries] and sums as
// [channels, queries]. Both products therefore read keys and values number by number, and the
// softmax's maxima and sums need no reduction across a register.
#pragma once

#include <cmath>

#include "common.h"

namespace causalcine {

// ROWS * VECTORS sums, VECTORS operands and one more register fill the register file.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif
constexpr int VECTORS = 3, QUERIES = LANES * VECTORS;  // per block
constexpr int KEYS = 128;                              // per block, a multiple of ROWS and of 2
constexpr int MOST_BLOCKS = 6;  // blocks of queries that share a block of keys while it is cached
constexpr float LEAST = -1e30f;

typedef Vector Tile[ROWS][VECTORS];

// 2^x for x <= 0, with a relative error of 1e-7, and never less than 2^-126
inline Vector exp2(Vector x) {
  // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits
  const Vector rounder = all(12582912.0f);
  x = larger(all(-126.0f), x);  // this order of arguments keeps NaN
  const Vector shifted = x + rounder, rest = x - (shifted - rounder);
  Vector y = all(1.5403530e-4f);  // the series of 2^rest, |rest| <= 1/2
  y = y * rest + 1.3333558e-3f;
  y = y * rest + 9.6181291e-3f;
  y = y * rest + 5.5504109e-2f;
  y = y * rest + 2.4022651e-1f;
  y = y * rest + 6.9314718e-1f;
  y = y * rest + 1.0f;
  return (Vector)((Integers)y + ((Integers)shifted << 23));
}

// The parts that depend on the dtype: layout of the operands, and the products.
template <class Number>
struct Product;

template <>
struct Product<float> {
  // The number at channel d and query i in a transposed block of queries, [dim, QUERIES]
  static float& turned(float* block, int d, int i) { return block[d * QUERIES + i]; }

  static void scores(const float* const* keys, const float* queries, int dim, Tile& sum) {
    for (int d = 0; d < dim; ++d)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int i = 0; i < VECTORS; ++i) sum[r][i] += keys[r][d] * ((const Vector*)queries)[d * VECTORS + i];
  }

  // Copies values of `count` keys next to each other. At their stride, `row` numbers, they would
  // evict each other from the L1 cache.
  static void pack(const float* v, int64_t row, int count, int dim, float* packed) {
    for (int j = 0; j < count; ++j) std::memcpy(packed + j * dim, v + j * row, sizeof(float) * dim);
  }

  static void narrow_weights(float*, int) {}

  // The number at row i and channel d of rows whose pairs are multiplied, [rows, dim]
  static float& paired(float* rows, int dim, int i, int d) { return rows[i * dim + d]; }

  // ROWS * QUERIES numbers as this dtype; `room` is for those that it has to convert
  static const float* narrowed(const float* numbers, float*) { return numbers; }

  // sum[r] += weights[r][i] * x[i] over queries i, for ROWS keys and WIDTH registers of channels
  template <int WIDTH>
  static void sum_over_queries(const float* weights, const float* x, int dim, int d, Vector (&sum)[ROWS][WIDTH]) {
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int w = 0; w < WIDTH; ++w) sum[r][w] += weights[r * QUERIES + i] * ((const Vector*)(x + i * dim + d))[w];
  }

  // Channels d .. d + ROWS of weights times packed values
  static void accumulate(const float* weights, const float* values, int dim, int d, int count, Tile& sum) {
    for (int j = 0; j < count; ++j)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int i = 0; i < VECTORS; ++i) sum[r][i] += values[j * dim + d + r] * ((const Vector*)weights)[j * VECTORS + i];
  }
};

#ifdef __AVX512BF16__
// bfloat16 in pairs: of two channels for scores, of two keys for values. The processor sums the
// products of a pair.
template <>
struct Product<bfloat16> {
  static bfloat16& turned(bfloat16* block, int d, int i) { return block[(d / 2 * QUERIES + i) * 2 + d % 2]; }

  static void scores(const bfloat16* const* keys, const bfloat16* queries, int dim, Tile& sum) {
    for (int d = 0; d < dim; d += 2)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int i = 0; i < VECTORS; ++i) sum[r][i] = add_products(sum[r][i], keys[r] + d, ((const __m512bh*)queries)[d / 2 * VECTORS + i]);
  }

  static void pack(const bfloat16* v, int64_t row, int count, int dim, bfloat16* packed) {
    uint32_t* pairs = (uint32_t*)packed;
    for (int j = 0; j < count; j += 2, v += 2 * row, pairs += dim)
      if (j + 1 < count)
        for (int d = 0; d < dim; ++d) pairs[d] = v[d] | uint32_t(v[row + d]) << 16;
      else
        for (int d = 0; d < dim; ++d) pairs[d] = v[d];
  }

  static void narrow_weights(float* weights, int count) {
    for (int j = 0; j < count; j += 2)
      for (int i = 0; i < VECTORS; ++i) {
        const __m512* w = (const __m512*)weights + j * VECTORS + i;
        const __m512 none = {};
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(w[0]));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(j + 1 < count ? w[VECTORS] : none));
        ((__m512i*)weights)[j / 2 * VECTORS + i] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
      }
  }

  static bfloat16& paired(bfloat16* rows, int dim, int i, int d) { return rows[(i / 2 * dim + d) * 2 + i % 2]; }

  static const bfloat16* narrowed(const float* numbers, bfloat16* room) {
    for (int i = 0; i < ROWS * VECTORS; ++i) ((__m256i*)room)[i] = (__m256i)_mm512_cvtneps_pbh(((const __m512*)numbers)[i]);
    return room;
  }

  template <int WIDTH>
  static void sum_over_queries(const bfloat16* weights, const bfloat16* x, int dim, int d, Vector (&sum)[ROWS][WIDTH]) {
    for (int i = 0; i < QUERIES; i += 2)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int w = 0; w < WIDTH; ++w) sum[r][w] = add_products(sum[r][w], weights + r * QUERIES + i, ((const __m512bh*)(x + (i / 2 * dim + d) * 2))[w]);
  }

  static void accumulate(const float* weights, const bfloat16* values, int dim, int d, int count, Tile& sum) {
    for (int j = 0; j < count; j += 2)
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int i = 0; i < VECTORS; ++i)
          sum[r][i] = add_products(sum[r][i], values + j * dim + (d + r) * 2, ((const __m512bh*)weights)[j / 2 * VECTORS + i]);
  }
};
#endif

// `films` films of `heads` heads, `dim` wide: queries [films, queries, heads, dim], keys and values
// [films, keys, heads, dim]
struct Sizes {
  int64_t films, queries, keys, heads, dim;
  int64_t row() const { return heads * dim; }
};

// A block of queries, scaled and transposed; its sums so far [dim, QUERIES]; each query's largest
// score and sum of weights so far.
template <class Number>
struct Block {
  Number* queries;
  float* sums;
  Vector most[VECTORS], total[VECTORS];
};

// Adds `count` keys to a block. `scores` has room for KEYS * QUERIES numbers.
template <class Number>
void add_keys(Block<Number>& block, const Number* k, const Number* values, int64_t row, int count, int dim, float* scores) {
  Vector most[VECTORS], rescale[VECTORS], total[VECTORS] = {};
  for (int i = 0; i < VECTORS; ++i) most[i] = block.most[i];
  for (int j = 0; j < count; j += ROWS) {
    Tile sum = {};
    const Number* keys[ROWS];
    // Repeating the last key changes no maximum.
    for (int r = 0; r < ROWS; ++r) keys[r] = k + std::min(j + r, count - 1) * row;
    Product<Number>::scores(keys, block.queries, dim, sum);
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) {
        most[i] = larger(most[i], sum[r][i]);
        ((Vector*)scores)[(j + r) * VECTORS + i] = sum[r][i];
      }
  }
  for (int j = 0; j < count; ++j)
    for (int i = 0; i < VECTORS; ++i) {
      Vector& score = ((Vector*)scores)[j * VECTORS + i];
      score = exp2(score - most[i]);
      total[i] += score;
    }
  for (int i = 0; i < VECTORS; ++i) {
    rescale[i] = exp2(block.most[i] - most[i]);
    block.most[i] = most[i];
    block.total[i] = block.total[i] * rescale[i] + total[i];
  }
  Product<Number>::narrow_weights(scores, count);
  for (int d = 0; d < dim; d += ROWS) {
    Tile sum;
    Vector* sums = (Vector*)block.sums + d * VECTORS;
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) sum[r][i] = sums[r * VECTORS + i] * rescale[i];
    Product<Number>::accumulate(scores, values, dim, d, count, sum);
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) sums[r * VECTORS + i] = sum[r][i];
  }
}

// One head's queries first .. last over `length` keys. Pointers are to the head's first number. The
// output is zero if there are no keys. `log_sum`, unless null, gets the base-2 logarithm of each
// query's sum of weights, for the backward pass. Queries and output may be of a wider dtype.
template <class Number, class Outer>
void attend(const Outer* q, const Number* k, const Number* v, Outer* out, float* log_sum, const Sizes& s, int64_t length, int64_t first, int64_t last) {
  const int dim = s.dim, blocks = (last - first + QUERIES - 1) / QUERIES;
  const int64_t row = s.row();
  const float scale = 1.4426950408889634 / std::sqrt(double(dim));  // to the base 2
  const size_t state = sizeof(float) * dim * QUERIES;
  char* at = scratch(2 * blocks * state + sizeof(float) * KEYS * (QUERIES + dim));
  const auto part = [&at](size_t bytes) { return (at += bytes) - bytes; };
  float* scores = (float*)part(sizeof(float) * KEYS * QUERIES);
  Block<Number> block[MOST_BLOCKS];
  const auto begin = [&](int b) { return first + b * QUERIES; };
  const auto count_of = [&](int b) { return int(std::min<int64_t>(QUERIES, last - begin(b))); };
  for (int b = 0; b < blocks; ++b) {
    block[b] = {(Number*)part(state), (float*)part(state)};
    std::memset(block[b].sums, 0, state);
    for (Vector& most : block[b].most) most = all(LEAST);
    for (int d = 0; d < dim; ++d)
      for (int i = 0; i < QUERIES; ++i)
        narrow(i < count_of(b) ? scale * wide(q[(begin(b) + i) * row + d]) : 0.0f, Product<Number>::turned(block[b].queries, d, i));
  }
  Number* values = (Number*)part(sizeof(float) * KEYS * dim);
  for (int64_t key = 0; key < length; key += KEYS) {
    const int count = std::min<int64_t>(KEYS, length - key);
    Product<Number>::pack(v + key * row, row, count, dim, values);
    for (int b = 0; b < blocks; ++b) add_keys(block[b], k + key * row, values, row, count, dim, scores);
  }
  for (int b = 0; b < blocks; ++b)
    for (int i = 0; i < count_of(b); ++i) {
      const float total = ((const float*)block[b].total)[i], over = length > 0 ? 1.0f / total : 0.0f;
      for (int d = 0; d < dim; ++d) narrow(block[b].sums[d * QUERIES + i] * over, out[(begin(b) + i) * row + d]);
      if (log_sum) log_sum[begin(b) + i] = length > 0 ? ((const float*)block[b].most)[i] + std::log2(total) : 0.0f;
    }
}

template <class Number>
void attention(xla::ffi::ThreadPool& pool, const Number* q, const Number* k, const Number* v, const int32_t* lengths, Number* out, float* log_sum, const Sizes& s) {
  const int64_t blocks = (s.queries + QUERIES - 1) / QUERIES, threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t share = std::clamp<int64_t>(s.films * s.heads * blocks / (4 * threads), 1, MOST_BLOCKS), parts = (blocks + share - 1) / share;
  in_parallel(pool, s.films * s.heads * parts, [&](int64_t task) {
    const int64_t part = task % parts, head = task / parts % s.heads, film = task / parts / s.heads;
    const int64_t queries = film * s.queries * s.row() + head * s.dim, keys = film * s.keys * s.row() + head * s.dim;
    const int64_t first = part * share * QUERIES, last = std::min(s.queries, first + share * QUERIES);
    attend(q + queries, k + keys, v + keys, out + queries, log_sum ? log_sum + (film * s.heads + head) * s.queries : nullptr, s, std::min<int64_t>(lengths[film], s.keys), first, last);
  });
}

}  // namespace causalcine
