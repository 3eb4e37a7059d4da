// SiLU of a VAE's norm, x / max(|x|, tiny) * sqrt(channels) * gamma over each pixel's channels, and
// its gradient. Channels must fill whole registers.
#pragma once

#include <cmath>

#include "convolution.h"

namespace causalcine {

constexpr float LEAST_SQUARE = 1e-24f;
constexpr int64_t PIXELS_A_TASK = 1024;

// 1 / (1 + exp(-x))
template <int L>
inline typename Register<L>::Type sigmoid(typename Register<L>::Type x) {
  typedef typename Register<L>::Type V;
  typedef int32_t I __attribute__((vector_size(L * 4)));
  // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits
  const V none{}, rounder = none + 12582912.0f;
  x = x * -1.44269504f;
  x = none - 126.0f > x ? none - 126.0f : x;  // this order of arguments keeps NaN
  x = none + 126.0f < x ? none + 126.0f : x;
  const V shifted = x + rounder, rest = x - (shifted - rounder);
  V y = none + 1.5403530e-4f;  // the series of 2^rest, |rest| <= 1/2
  y = y * rest + 1.3333558e-3f;
  y = y * rest + 9.6181291e-3f;
  y = y * rest + 5.5504109e-2f;
  y = y * rest + 2.4022651e-1f;
  y = y * rest + 6.9314718e-1f;
  y = y * rest + 1.0f;
  return 1.0f / (1.0f + (V)((I)y + ((I)shifted << 23)));
}

template <int L>
inline float sum_of(typename Register<L>::Type x) {
  float sum = 0;
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) sum += x[i];
  return sum;
}

template <int L>
void norm_silu(xla::ffi::ThreadPool& pool, const float* x, const float* gamma, float* y, int64_t pixels, int64_t channels) {
  using R = Register<L>;
  const float scale = std::sqrt(float(channels));
  in_parallel(pool, (pixels + PIXELS_A_TASK - 1) / PIXELS_A_TASK, [&](int64_t task) {
    const int64_t end = std::min(pixels, (task + 1) * PIXELS_A_TASK) * channels;
    for (int64_t at = task * PIXELS_A_TASK * channels; at < end; at += channels) {
      typename R::Type squares{};
      for (int64_t c = 0; c < channels; c += L) squares += R::load(x + at + c) * R::load(x + at + c);
      const float to_norm = scale / std::sqrt(std::max(sum_of<L>(squares), LEAST_SQUARE));
      for (int64_t c = 0; c < channels; c += L) {
        const typename R::Type u = R::load(x + at + c) * to_norm * R::load(gamma + c);
        R::store(y + at + c, u * sigmoid<L>(u));
      }
    }
  });
}

template <int L>
void norm_silu_gradient(xla::ffi::ThreadPool& pool, const float* x, const float* gamma, const float* gradient, float* of_x, float* of_gamma, int64_t pixels,
                        int64_t channels) {
  using R = Register<L>;
  const float scale = std::sqrt(float(channels));
  const int64_t tasks = (pixels + PIXELS_A_TASK - 1) / PIXELS_A_TASK;
  const std::unique_ptr<float[]> sums(new float[tasks * channels]);
  in_parallel(pool, tasks, [&](int64_t task) {
    float* sum = sums.get() + task * channels;
    std::fill(sum, sum + channels, 0.f);
    const int64_t end = std::min(pixels, (task + 1) * PIXELS_A_TASK) * channels;
    for (int64_t at = task * PIXELS_A_TASK * channels; at < end; at += channels) {
      typename R::Type squares{}, products{};
      for (int64_t c = 0; c < channels; c += L) squares += R::load(x + at + c) * R::load(x + at + c);
      const float square = sum_of<L>(squares), to_norm = scale / std::sqrt(std::max(square, LEAST_SQUARE));
      for (int64_t c = 0; c < channels; c += L) {
        const typename R::Type here = R::load(x + at + c), g = R::load(gamma + c), normed = here * to_norm, u = normed * g, s = sigmoid<L>(u);
        const typename R::Type of_u = R::load(gradient + at + c) * (s + u * s * (1.0f - s)), of_normed = of_u * g;
        R::store(sum + c, R::load(sum + c) + of_u * normed);
        R::store(of_x + at + c, of_normed);
        products += of_normed * here;
      }
      const float along = square > LEAST_SQUARE ? sum_of<L>(products) / square : 0.f;
      for (int64_t c = 0; c < channels; c += L) R::store(of_x + at + c, to_norm * (R::load(of_x + at + c) - R::load(x + at + c) * along));
    }
  });
  std::fill(of_gamma, of_gamma + channels, 0.f);
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t c = 0; c < channels; ++c) of_gamma[c] += sums[task * channels + c];
}

}  // namespace causalcine
