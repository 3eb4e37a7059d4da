// The gradient of attention. Scores are recomputed; weights come from the forward's logarithms
// (https://arxiv.org/abs/2205.14135, algorithm 4).
#pragma once

#include "attention.h"

namespace causalcine {

constexpr int BACK_KEYS = 64;  // per block

inline int64_t rounded(int64_t rows, int64_t to) { return (rows + to - 1) / to * to; }

// A block of at most QUERIES queries: scaled and transposed [dim, QUERIES], and as rows
// [QUERIES, dim]; zeros beyond the last.
template <class Number>
struct BackBlock {
  Number *turned, *rows, *turned_gradient, *gradient;
  float* dq;  // transposed too
  Vector log[VECTORS], inner[VECTORS];  // logarithm of the sum of weights; gradient * out
  static size_t part(int dim) { return sizeof(float) * dim * QUERIES; }  // bytes, enough for each of the five
};

// rows[j] += sum over queries i of weights[j][i] * x[i], for ROWS keys j. weights [keys, QUERIES],
// x [QUERIES, dim], dim a multiple of LANES
template <int WIDTH, class Number>
void add_over_queries(const Number* weights, const Number* x, float* rows, int dim) {
  for (int d = 0; d < dim; d += WIDTH * LANES) {
    Vector sum[ROWS][WIDTH] = {};
    Product<Number>::template sum_over_queries<WIDTH>(weights, x, dim, d, sum);
    for (int r = 0; r < ROWS; ++r)
      for (int w = 0; w < WIDTH; ++w) ((Vector*)(rows + r * dim + d))[w] += sum[r][w];
  }
}

template <class Number>
void add_over_queries(const Number* weights, const Number* x, float* rows, int dim) {
  dim % (2 * LANES) ? add_over_queries<1>(weights, x, rows, dim) : add_over_queries<2>(weights, x, rows, dim);
}

// Adds a block's contribution to dk and dv of `count` keys, and theirs to the block's dq.
// k, v, dk, dv [keys, dim] have room for BACK_KEYS; `packed` are the keys, as Product::pack leaves
// them. `weights` has room for 2 * ROWS * QUERIES numbers, `scores` for BACK_KEYS * QUERIES.
template <class Number>
void add_gradients(BackBlock<Number>& block, const Number* k, const Number* v, const Number* packed, int count, int dim, float* weights, float* scores, float* dk,
                   float* dv) {
  Number* room = (Number*)(weights + ROWS * QUERIES);
  for (int j = 0; j < count; j += ROWS) {
    const Number *keys[ROWS], *values[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      const int at = std::min(j + r, count - 1) * dim;
      keys[r] = k + at, values[r] = v + at;
    }
    Tile score = {}, gradient = {};
    Vector *weight = (Vector*)weights, *change = (Vector*)scores + j * VECTORS;
    Product<Number>::scores(keys, block.turned, dim, score);
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) weight[r * VECTORS + i] = j + r < count ? exp2(score[r][i] - block.log[i]) : all(0);
    Product<Number>::scores(values, block.turned_gradient, dim, gradient);
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) change[r * VECTORS + i] = weight[r * VECTORS + i] * (gradient[r][i] - block.inner[i]);
    add_over_queries(Product<Number>::narrowed((const float*)weight, room), block.gradient, dv + j * dim, dim);
    add_over_queries(Product<Number>::narrowed((const float*)change, room), block.rows, dk + j * dim, dim);
  }
  Product<Number>::narrow_weights(scores, count);
  for (int d = 0; d < dim; d += ROWS) {
    Tile sum;
    Vector* to = (Vector*)block.dq + d * VECTORS;
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) sum[r][i] = to[r * VECTORS + i];
    Product<Number>::accumulate(scores, packed, dim, d, count, sum);
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < VECTORS; ++i) to[r * VECTORS + i] = sum[r][i];
  }
}

// A head's queries [count <= MOST_BLOCKS * QUERIES] over contiguous keys and values [length, dim].
// q, out, gradient and dq have a stride of `row` numbers between queries. Adds to dk and dv
// [length rounded to BACK_KEYS, dim].
template <class Number>
void attend_backward(const float* q, const Number* k, const Number* v, const float* out, const float* gradient, const float* log_sum, int64_t q_row, int64_t out_row,
                            int count, int64_t length, int dim, float* dq, float* dk, float* dv) {
  const int blocks = (count + QUERIES - 1) / QUERIES;
  const float natural = 1 / std::sqrt(float(dim)), scale = 1.4426950408889634 / std::sqrt(double(dim));
  const size_t part = BackBlock<Number>::part(dim), room = sizeof(float) * ((2 * ROWS + BACK_KEYS) * QUERIES + BACK_KEYS * dim);
  char* at = scratch(5 * blocks * part + room);
  float *weights = (float*)at, *scores = weights + 2 * ROWS * QUERIES;
  Number* packed = (Number*)(scores + BACK_KEYS * QUERIES);
  at += room;
  std::memset(at, 0, 5 * blocks * part);
  BackBlock<Number> block[MOST_BLOCKS];
  for (int b = 0; b < blocks; ++b, at += 5 * part) {
    block[b] = {(Number*)at, (Number*)(at + part), (Number*)(at + 2 * part), (Number*)(at + 3 * part), (float*)(at + 4 * part), {}, {}};
    for (int i = 0; i < std::min(QUERIES, count - b * QUERIES); ++i) {
      const int64_t query = b * QUERIES + i;
      float& inner = ((float*)block[b].inner)[i];
      for (int d = 0; d < dim; ++d) {
        const float g = gradient[query * out_row + d];
        narrow(scale * q[query * q_row + d], Product<Number>::turned(block[b].turned, d, i));
        narrow(scale * q[query * q_row + d], Product<Number>::paired(block[b].rows, dim, i, d));
        narrow(g, Product<Number>::turned(block[b].turned_gradient, d, i));
        narrow(g, Product<Number>::paired(block[b].gradient, dim, i, d));
        inner += g * out[query * out_row + d];
      }
      ((float*)block[b].log)[i] = log_sum[query];
    }
  }
  for (int64_t key = 0; key < length; key += BACK_KEYS) {
    const int keys = std::min<int64_t>(BACK_KEYS, length - key);
    Product<Number>::pack(k + key * dim, dim, keys, dim, packed);
    for (int b = 0; b < blocks; ++b) add_gradients(block[b], k + key * dim, v + key * dim, packed, keys, dim, weights, scores, dk + key * dim, dv + key * dim);
  }
  for (int64_t query = 0; query < count; ++query)
    for (int d = 0; d < dim; ++d) dq[query * q_row + d] = natural * block[query / QUERIES].dq[d * QUERIES + query % QUERIES];
}

// All queries of one head, in groups that fit `attend_backward`. Sets dk and dv, and converts dk
// from base 2 to e.
template <class Number>
void head_backward(const float* q, const Number* k, const Number* v, const float* out, const float* gradient, const float* log_sum, int64_t q_row, int64_t out_row,
                          int64_t queries, int64_t length, int dim, float* dq, float* dk, float* dv) {
  std::memset(dk, 0, sizeof(float) * rounded(length, BACK_KEYS) * dim);
  std::memset(dv, 0, sizeof(float) * rounded(length, BACK_KEYS) * dim);
  for (int64_t first = 0; first < queries; first += MOST_BLOCKS * QUERIES)
    attend_backward(q + first * q_row, k, v, out + first * out_row, gradient + first * out_row, log_sum + first, q_row, out_row,
                    std::min<int64_t>(MOST_BLOCKS * QUERIES, queries - first), length, dim, dq + first * q_row, dk, dv);
  for (int64_t i = 0; i < length * dim; ++i) dk[i] *= 0.6931471805599453f;
}

// Scratch memory for callers of `attend`, which itself uses `scratch`.
inline float* rows_of(size_t numbers) {
  thread_local std::vector<float> memory;
  if (memory.size() < numbers + 16) memory.resize(numbers + 16);
  return (float*)((uintptr_t(memory.data()) + 63) & ~uintptr_t(63));
}

inline void copy(const float* x, int64_t from, float* y, int64_t to, int64_t rows, int dim) {
  for (int64_t t = 0; t < rows; ++t, x += from, y += to) std::memcpy(y, x, sizeof(float) * dim);
}

// The gradient of `attention`. A task is one head of one film, so no two tasks write the same
// numbers.
inline void attention_backward(xla::ffi::ThreadPool& pool, const float* q, const float* k, const float* v, const int32_t* lengths, const float* out, const float* log_sum,
                               const float* gradient, float* dq, float* dk, float* dv, const Sizes& s) {
  in_parallel(pool, s.films * s.heads, [&](int64_t task) {
    const int64_t film = task / s.heads, offset = task % s.heads * s.dim, row = s.row(), room = rounded(s.keys, BACK_KEYS) * s.dim;
    const int64_t queries = film * s.queries * row + offset, keys = film * s.keys * row + offset, length = std::min<int64_t>(lengths[film], s.keys);
    float* rows = rows_of(4 * room);
    copy(k + keys, row, rows, s.dim, length, s.dim);
    copy(v + keys, row, rows + room, s.dim, length, s.dim);
    head_backward(q + queries, rows, rows + room, out + queries, gradient + queries, log_sum + task * s.queries, row, row, s.queries, length, s.dim, dq + queries,
                  rows + 2 * room, rows + 3 * room);
    std::memset(rows + 2 * room + length * s.dim, 0, sizeof(float) * (s.keys - length) * s.dim);
    std::memset(rows + 3 * room + length * s.dim, 0, sizeof(float) * (s.keys - length) * s.dim);
    copy(rows + 2 * room, s.dim, dk + keys, row, s.keys, s.dim);
    copy(rows + 3 * room, s.dim, dv + keys, row, s.keys, s.dim);
  });
}

}  // namespace causalcine
