// Convolutions in time, height and width of float32 videos, channels last, and the gradient of
// their weights.
//
// A task computes some rows of one frame. It copies the rows of x that they read, padded with
// zeros, into its own memory. A row of taps then reads contiguous memory: taps * channels numbers.
// Sums of several pixels and channels fill the registers; each number of x is multiplied by all
// lanes at once. Frames before and after x are zeros and cost nothing. The gradient of x is such a
// convolution too, with flipped and transposed weights.
#pragma once

#include "common.h"

namespace causalcine {

struct Convolution {
  int64_t batch, frames, height, width, inner;       // x
  int64_t out_frames, out_height, out_width, outer;  // y
  int64_t taps, tall, wide;                          // weights, [taps, tall, wide, inner, outer]
  int64_t ahead, top, left;  // y[t, r, c] begins at x[t + ahead, r - top, c - left]

  bool meets(int64_t t, int64_t tap) const { return t + ahead + tap >= 0 && t + ahead + tap < frames; }
  const float* row(const float* x, int64_t b, int64_t t, int64_t r) const { return x + ((b * frames + t) * height + r) * width * inner; }
};

template <int L>
struct Register {
  typedef float Type __attribute__((vector_size(L * 4)));
  typedef float Anywhere __attribute__((vector_size(L * 4), aligned(4)));
  static Type load(const float* x) { return *(const Anywhere*)x; }
  static void store(float* x, Type y) { *(Anywhere*)x = y; }
};

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SUMS = 24;
#else
constexpr int SUMS = 12;
#endif
constexpr int MOST_WIDE = 4;                // registers of channels
constexpr int MOST_TALL = SUMS == 24 ? 12 : 8;  // pixels
constexpr int64_t NEAR_WEIGHTS = 96 * 1024, NEAR_ROWS = 192 * 1024;  // bytes that stay cached

constexpr int64_t ENOUGH_TASKS = 8;  // enough that threads end at about the same time

constexpr int tall_for(int wide) { return SUMS / wide < MOST_TALL ? SUMS / wide : MOST_TALL; }
constexpr int HALF = LANES > 8 ? 8 : LANES;
// Half registers where whole ones would be mostly empty
inline bool half_registers(int64_t channels) { return LANES == 16 && channels % 16 != 0 && channels % 16 <= 8; }

// Calls run(std::integral_constant<int, wide>) for wide in 1 .. MOST_WIDE
template <class Run>
inline void with_wide(int wide, const Run& run) {
  if (wide == 1) run(std::integral_constant<int, 1>());
  if (wide == 2) run(std::integral_constant<int, 2>());
  if (wide == 3) run(std::integral_constant<int, 3>());
  if (wide == 4) run(std::integral_constant<int, 4>());
}

// Splits channels of y into blocks of at most MOST_WIDE registers, as equal as possible
struct Blocks {
  int lanes;
  int64_t registers, count;
  Blocks(int64_t channels, int lanes) : lanes(lanes), registers((channels + lanes - 1) / lanes), count((registers + MOST_WIDE - 1) / MOST_WIDE) {}
  int64_t first(int64_t block) const { return registers * block / count; }
  int wide(int64_t block) const { return int(first(block + 1) - first(block)); }
};

// sum[p] += at[p][0 .. count) times weights [count, W * L]
template <int L, int W, int P>
inline void multiply_pixels(const float* const (&at)[P], const float* weights, int64_t count, typename Register<L>::Type (&sum)[P][W]) {
  for (int64_t i = 0; i < count; ++i, weights += W * L) {
    typename Register<L>::Type w[W];
#pragma GCC unroll 4
    for (int o = 0; o < W; ++o) w[o] = Register<L>::load(weights + o * L);
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int o = 0; o < W; ++o) sum[p][o] += at[p][i] * w[o];
  }
}

// Rows `first` .. `first + rows` of frame t, one block of channels.
// `x` [taps, rows + tall - 1, out_width + wide - 1, inner], sums [rows * out_width, W * L]
template <int L, int W>
void convolve_block(const Convolution& c, const float* x, int64_t t, int64_t rows, const float* weights, const float* bias, float* sums, float* y, int64_t channels) {
  using R = Register<L>;
  constexpr int P = tall_for(W);
  const int64_t across = (c.out_width + c.wide - 1) * c.inner, along = c.wide * c.inner, pixels = rows * c.out_width;
  const int64_t together = std::max<int64_t>(1, NEAR_WEIGHTS / (along * W * L * 4));
  const float *seen[64], *theirs[64];
  int64_t lines = 0;
  for (int64_t tap = 0; tap < c.taps; ++tap)
    for (int64_t down = 0; c.meets(t, tap) && down < c.tall; ++down, ++lines) {
      seen[lines] = x + (tap * (rows + c.tall - 1) + down) * across;
      theirs[lines] = weights + (tap * c.tall + down) * along * W * L;
    }
  for (int64_t from = 0; from < std::max<int64_t>(1, lines); from += together) {
    const int64_t to = std::min(lines, from + together);
    for (int64_t pixel = 0; pixel < pixels; pixel += P) {
      typename R::Type sum[P][W];
      int64_t place[P];
      for (int p = 0; p < P; ++p) {
        const int64_t at = std::min(pixel + p, pixels - 1);
        place[p] = at / c.out_width * across + at % c.out_width * c.inner;
      }
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int o = 0; o < W; ++o) sum[p][o] = R::load(from == 0 ? bias + o * L : sums + ((pixel + p) * W + o) * L);
      for (int64_t line = from; line < to; ++line) {
        const float* at[P];
        for (int p = 0; p < P; ++p) at[p] = seen[line] + place[p];
        multiply_pixels<L, W, P>(at, theirs[line], along, sum);
      }
      const int64_t valid = std::min<int64_t>(P, pixels - pixel);
      if (to < lines) {
#pragma GCC unroll 12
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int o = 0; o < W; ++o) R::store(sums + ((pixel + p) * W + o) * L, sum[p][o]);
      } else if (valid == P && channels == W * L) {
#pragma GCC unroll 12
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int o = 0; o < W; ++o) R::store(y + (pixel + p) * c.outer + o * L, sum[p][o]);
      } else {
        alignas(64) float line[P][W * L];
#pragma GCC unroll 12
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int o = 0; o < W; ++o) R::store(line[p] + o * L, sum[p][o]);
        for (int p = 0; p < valid; ++p) std::memcpy(y + (pixel + p) * c.outer, line[p], channels * 4);
      }
    }
  }
}

// Rows of x in the order of the taps, with zeros around
inline void copy_rows(const Convolution& c, const float* x, int64_t b, int64_t t, int64_t first, int64_t rows, float* to) {
  const int64_t across = (c.out_width + c.wide - 1) * c.inner;
  const int64_t begin = std::min(c.left, c.out_width + c.wide - 1), held = std::min(c.width, c.out_width + c.wide - 1 - begin);
  for (int64_t tap = 0; tap < c.taps; ++tap)
    for (int64_t r = first - c.top; c.meets(t, tap) && r < first - c.top + rows + c.tall - 1; ++r) {
      float* line = to + (tap * (rows + c.tall - 1) + r - first + c.top) * across;
      const bool inside = r >= 0 && r < c.height;
      const int64_t before = inside ? begin * c.inner : across, middle = inside ? held * c.inner : 0;
      std::fill(line, line + before, 0.f);
      if (inside) std::memcpy(line + before, c.row(x, b, t + c.ahead + tap, r), middle * 4);
      std::fill(line + before + middle, line + across, 0.f);
    }
}

template <int L>
void convolve(xla::ffi::ThreadPool& pool, const Convolution& c, const float* x, const float* w, const float* bias, float* y) {
  const Blocks blocks(c.outer, L);
  const int64_t each = c.tall * c.wide * c.inner, padded = blocks.registers * L;
  // Block by block: [block][taps, tall, wide, inner][wide * L]
  const std::unique_ptr<float[]> packed(new float[(c.taps * each + 1) * padded + 16]);
  float* const biases = packed.get() + c.taps * each * padded;
  std::fill(biases, biases + padded, 0.f);
  std::memcpy(biases, bias, c.outer * 4);
  in_parallel(pool, c.taps * blocks.count, [&](int64_t task) {
    const int64_t tap = task / blocks.count, block = task % blocks.count, from = blocks.first(block) * L, columns = blocks.wide(block) * L;
    bool met = false;
    for (int64_t t = 0; t < c.out_frames; ++t) met |= c.meets(t, tap);
    const int64_t held = std::min(columns, c.outer - from);
    float* to = packed.get() + from * c.taps * each + tap * each * columns;
    for (int64_t i = 0; met && i < each; ++i, to += columns) {
      std::memcpy(to, w + (tap * each + i) * c.outer + from, held * 4);
      std::fill(to + held, to + columns, 0.f);
    }
  });
  const int64_t row_bytes = c.taps * (c.out_width + c.wide - 1) * c.inner * 4;
  int64_t rows = std::max<int64_t>(1, std::min(c.out_height, NEAR_ROWS / row_bytes - c.tall + 1));
  const int64_t images = c.batch * c.out_frames, parts = std::min(c.out_height, std::max((c.out_height + rows - 1) / rows, (ENOUGH_TASKS + images - 1) / images));
  rows = (c.out_height + parts - 1) / parts;
  in_parallel(pool, images * parts, [&](int64_t task) {
    const int64_t b = task / parts / c.out_frames, t = task / parts % c.out_frames, first = task % parts * rows;
    const int64_t count = std::min(rows, c.out_height - first);
    if (count <= 0) return;
    const int64_t held = (rows + c.tall - 1) * row_bytes / 4 / 16 * 16 + 16;
    float* own = (float*)scratch((held + (rows * c.out_width + MOST_TALL) * MOST_WIDE * L) * 4);
    copy_rows(c, x, b, t, first, count, own);
    float* line = y + ((b * c.out_frames + t) * c.out_height + first) * c.out_width * c.outer;
    for (int64_t block = 0; block < blocks.count; ++block) {
      const int64_t from = blocks.first(block) * L, channels = std::min<int64_t>(blocks.wide(block) * L, c.outer - from);
      with_wide(blocks.wide(block), [&](auto wide) {
        convolve_block<L, wide()>(c, own, t, count, packed.get() + from * c.taps * each, biases + from, own + held, line + from, channels);
      });
    }
  });
}

// Sums over pixels of x's channels i .. i + P times one block of gradient channels, for one tap
template <int L, int W, int P>
void correlate(const Convolution& c, const float* x, const float* gradient, int64_t tap, int64_t down, int64_t right, float* weights) {
  using R = Register<L>;
  typename R::Type total[P][W] = {};
  const int64_t begin = std::max<int64_t>(0, c.left - right), end = std::min(c.out_width, c.width + c.left - right);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t t = 0; t < c.out_frames; ++t) {
      if (!c.meets(t, tap)) continue;
      typename R::Type sum[P][W] = {};
      const int64_t last = std::min(c.out_height, c.height + c.top - down);
      for (int64_t r = std::max<int64_t>(0, c.top - down); r < last; ++r) {
        const float* of_x = c.row(x, b, t + c.ahead + tap, r + down - c.top) + (begin + right - c.left) * c.inner;
        const float* of_y = gradient + (((b * c.out_frames + t) * c.out_height + r) * c.out_width + begin) * c.outer;
        for (int64_t column = begin; column < end; ++column, of_x += c.inner, of_y += c.outer) {
          typename R::Type g[W];
#pragma GCC unroll 4
          for (int o = 0; o < W; ++o) g[o] = R::load(of_y + o * L);
#pragma GCC unroll 12
          for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
            for (int o = 0; o < W; ++o) sum[p][o] += of_x[p] * g[o];
        }
      }
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int o = 0; o < W; ++o) total[p][o] += sum[p][o];
    }
  for (int p = 0; p < P; ++p)
    for (int o = 0; o < W; ++o) R::store(weights + p * c.outer + o * L, total[p][o]);
}

// Weights [taps, tall, wide, inner, outer] and bias [outer] from x and the gradient of y. `outer`
// must be a multiple of L
template <int L>
void convolution_gradient(xla::ffi::ThreadPool& pool, const Convolution& c, const float* x, const float* gradient, float* weights, float* bias) {
  const Blocks blocks(c.outer, L);
  const auto width_of = [&](int wide) {
    int64_t width = tall_for(wide);
    while (width > c.inner) width = width > 8 ? 8 : width > 4 ? 4 : 1;
    return width;
  };
  struct Task {
    int64_t tap, down, right, i, block;
  };
  std::vector<Task> tasks;
  for (int64_t tap = 0; tap < c.taps; ++tap)
    for (int64_t down = 0; down < c.tall; ++down)
      for (int64_t block = 0; block < blocks.count; ++block)
        for (int64_t i = 0; i < c.inner; i += width_of(blocks.wide(block)))
          for (int64_t right = 0; right < c.wide; ++right) tasks.push_back({tap, down, right, i, block});
  in_parallel(pool, int64_t(tasks.size()) + 1, [&](int64_t number) {
    if (number == 0) {
      std::fill(bias, bias + c.outer, 0.f);
      float* sum = (float*)scratch(c.outer * 4);
      const int64_t pixels = c.out_height * c.out_width;
      for (int64_t frame = 0; frame < c.batch * c.out_frames; ++frame) {
        std::fill(sum, sum + c.outer, 0.f);
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
          for (int64_t o = 0; o < c.outer; ++o) sum[o] += gradient[(frame * pixels + pixel) * c.outer + o];
        for (int64_t o = 0; o < c.outer; ++o) bias[o] += sum[o];
      }
      return;
    }
    const Task& task = tasks[number - 1];
    with_wide(blocks.wide(task.block), [&](auto wide) {
      constexpr int P = tall_for(wide());
      const int64_t width = width_of(wide()), i = std::min(task.i, c.inner - width), o = blocks.first(task.block) * L;
      float* to = weights + (((task.tap * c.tall + task.down) * c.wide + task.right) * c.inner + i) * c.outer + o;
      const auto run = [&](auto tall) { correlate<L, wide(), tall()>(c, x + i, gradient + o, task.tap, task.down, task.right, to); };
      if (width == P) return run(std::integral_constant<int, P>());
      if (width == 8) return run(std::integral_constant<int, 8>());
      if (width == 4) return run(std::integral_constant<int, 4>());
      run(std::integral_constant<int, 1>());
    });
  });
}

}  // namespace causalcine
