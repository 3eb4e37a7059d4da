// Attention of a packed pass, forward and backward: all segments of all films over their receptive
// fields, in one call.
//
//   k, v of segments and pool --field's frames, rotated to their slots--> rows in the caches
//   --attend--> output, logarithms
//
// One task is one head of one film, with its segments in order. It reads one pool repeatedly, and
// its backward pass adds only to its own numbers.
#pragma once

#include <type_traits>

#include "backward.h"

namespace causalcine {

// A packed pass. A segment has `frames` frames of `tokens` tokens; its field has at most `entries`
// of the pool's `pool` frames.
struct Pass {
  int64_t films, segments, frames, tokens, pool, entries, heads, dim;
  const int32_t *frame, *length;  // [segments, films, entries], [segments, films]
  const float *cosine, *sine;  // [slots, tokens, dim]: factors of a channel and of its pair's other

  int64_t row() const { return heads * dim; }
  int64_t queries() const { return frames * tokens; }
  int64_t room() const { return rounded((frames + entries) * tokens, BACK_KEYS) * dim; }
  int64_t attended(int64_t film, int64_t segment) const { return frames + length[segment * films + film]; }
  int64_t own(int64_t film, int64_t segment) const { return (film * segments + segment) * queries() * row(); }
  // The i-th attended frame: the segment's own, then the pool's. Slots count back from the newest.
  bool is_own(int64_t i) const { return i < frames; }
  int64_t slot(int64_t i) const { return is_own(i) ? frames - 1 - i : i; }
  int64_t at(int64_t film, int64_t segment, int64_t i) const {
    if (is_own(i)) return own(film, segment) + i * tokens * row();
    return (film * pool + frame[(segment * films + film) * entries + i - frames]) * tokens * row();
  }
};

// Rotates a frame's tokens, `from` numbers apart, to its slot (sign 1) or back (-1). Writes or adds
// to y.
template <int SIGN, bool ADD>
void rotate(const float* x, int64_t from, float* y, int64_t to, const Pass& p, int64_t slot) {
  const float *cosine = p.cosine + slot * p.tokens * p.dim, *sine = p.sine + slot * p.tokens * p.dim;
  for (int64_t t = 0; t < p.tokens; ++t, x += from, y += to, cosine += p.dim, sine += p.dim)
    for (int d = 0; d < p.dim; d += 2) {
      const float even = cosine[d] * x[d] + SIGN * sine[d] * x[d + 1], odd = cosine[d + 1] * x[d + 1] + SIGN * sine[d + 1] * x[d];
      y[d] = ADD ? y[d] + even : even;
      y[d + 1] = ADD ? y[d + 1] + odd : odd;
    }
}

inline void add(const float* x, int64_t from, float* y, int64_t to, int64_t rows, int dim) {
  for (int64_t t = 0; t < rows; ++t, x += from, y += to)
    for (int d = 0; d < dim; ++d) y[d] += x[d];
}

// All tokens of a pass: [films, segments, queries, heads, dim]; the pool's
// [films, pool, tokens, heads, dim]
template <class Number>
struct Tokens {
  Number *q, *k, *v, *pool_k, *pool_v;
};

// A segment's queries [queries, dim] and its keys and values [keys, dim], rotated. `frame` has room
// for a frame's.
template <class Number>
struct Rows {
  float *q, *frame;
  Number *k, *v;
  static Rows of(float* at, const Pass& p) {
    float *frame = at + p.queries() * p.dim, *keys = frame + p.tokens * p.dim;
    return {at, frame, (Number*)keys, (Number*)(keys + p.room())};
  }
  static int64_t numbers(const Pass& p) { return (p.queries() + p.tokens) * p.dim + 2 * p.room(); }
};

template <class Number>
void gather(const Pass& p, const Tokens<const float>& x, int64_t film, int64_t segment, int64_t head, const Rows<Number>& rows) {
  // Where a frame is written in float, and what then brings it to its place.
  const auto room = [&](Number* to) -> float* {
    if constexpr (std::is_same_v<Number, float>)
      return to;
    else
      return rows.frame;
  };
  const auto put = [&](Number* to) {
    if constexpr (!std::is_same_v<Number, float>)
      for (int64_t n = 0; n < p.tokens * p.dim; ++n) narrow(rows.frame[n], to[n]);
  };
  for (int64_t i = 0; i < p.attended(film, segment); ++i) {
    const int64_t from = p.at(film, segment, i) + head * p.dim, to = i * p.tokens * p.dim;
    const bool own = p.is_own(i);
    if (own) rotate<1, false>(x.q + from, p.row(), rows.q + to, p.dim, p, p.slot(i));
    rotate<1, false>((own ? x.k : x.pool_k) + from, p.row(), room(rows.k + to), p.dim, p, p.slot(i));
    put(rows.k + to);
    copy((own ? x.v : x.pool_v) + from, p.row(), room(rows.v + to), p.dim, p.tokens, p.dim);
    put(rows.v + to);
  }
}

// log_sum [films, heads, segments, queries]. Products are of `Number`, sums of float.
template <class Number>
void fields(xla::ffi::ThreadPool& pool, const Pass& p, const Tokens<const float>& x, float* out, float* log_sum) {
  in_parallel(pool, p.films * p.heads, [&](int64_t task) {
    const int64_t film = task / p.heads, head = task % p.heads, queries = p.queries();
    float* result = rows_of(queries * p.dim + Rows<Number>::numbers(p));
    const auto rows = Rows<Number>::of(result + queries * p.dim, p);
    for (int64_t segment = 0; segment < p.segments; ++segment) {
      gather(p, x, film, segment, head, rows);
      const Sizes sizes{1, queries, 0, 1, p.dim};
      const int64_t length = p.attended(film, segment) * p.tokens;
      for (int64_t first = 0; first < queries; first += MOST_BLOCKS * QUERIES)
        attend<Number>(rows.q, rows.k, rows.v, result, log_sum + (task * p.segments + segment) * queries, sizes, length, first,
                      std::min(queries, first + MOST_BLOCKS * QUERIES));
      copy(result, p.dim, out + p.own(film, segment) + head * p.dim, p.row(), queries, p.dim);
    }
  });
}

template <class Number>
void fields_backward(xla::ffi::ThreadPool& pool, const Pass& p, const Tokens<const float>& x, const float* out, const float* log_sum, const float* gradient,
                            const Tokens<float>& d) {
  in_parallel(pool, p.films * p.heads, [&](int64_t task) {
    const int64_t film = task / p.heads, head = task % p.heads, queries = p.queries(), row = p.row(), dim = p.dim, room = p.room();
    float *dq = rows_of(queries * dim + 2 * room + Rows<Number>::numbers(p)), *dk = dq + queries * dim, *dv = dk + room;
    const auto rows = Rows<Number>::of(dv + room, p);
    for (int64_t t = film * p.pool * p.tokens; t < (film + 1) * p.pool * p.tokens; ++t)
      for (float* to : {d.pool_k, d.pool_v}) std::memset(to + t * row + head * dim, 0, sizeof(float) * dim);
    for (int64_t segment = 0; segment < p.segments; ++segment) {
      gather(p, x, film, segment, head, rows);
      const int64_t own = p.own(film, segment) + head * dim, frames = p.attended(film, segment);
      head_backward(rows.q, rows.k, rows.v, out + own, gradient + own, log_sum + (task * p.segments + segment) * queries, dim, row, queries, frames * p.tokens, dim,
                    dq, dk, dv);
      for (int64_t i = 0; i < frames; ++i) {
        const int64_t to = p.at(film, segment, i) + head * dim, from = i * p.tokens * dim;
        if (p.is_own(i)) {
          rotate<-1, false>(dq + from, dim, d.q + to, row, p, p.slot(i));
          rotate<-1, false>(dk + from, dim, d.k + to, row, p, p.slot(i));
          copy(dv + from, dim, d.v + to, row, p.tokens, dim);
        } else {
          rotate<-1, true>(dk + from, dim, d.pool_k + to, row, p, p.slot(i));
          add(dv + from, dim, d.pool_v + to, row, p.tokens, dim);
        }
      }
    }
  });
}

}  // namespace causalcine
