// Basics of the kernels: registers of LANES float32 numbers, bfloat16, work shared by threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace causalcine {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint16_t bfloat16;

inline Vector all(float x) { return x - Vector{}; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float wide(float x) { return x; }
inline float wide(bfloat16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
inline void narrow(float x, float& y) { y = x; }
inline void narrow(float x, bfloat16& y) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;  // rounding could turn it into infinity
  y = is_nan ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

#ifdef __AVX512BF16__
// sum + the products of both numbers of each pair; `two` is one pair, broadcast to all lanes
inline Vector add_products(Vector sum, const bfloat16* two, __m512bh pairs) {
  int32_t bits;
  std::memcpy(&bits, two, 4);
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits), pairs);
}
#endif

// `bytes` of this thread's own memory, aligned to a cache line, valid until the next call.
inline char* scratch(size_t bytes) {
  thread_local std::vector<char> memory;
  if (memory.size() < bytes + 64) memory.resize(bytes + 64);
  return (char*)((uintptr_t(memory.data()) + 63) & ~uintptr_t(63));
}

// Calls work(0) .. work(tasks - 1) on the calling thread and on free threads of XLA's pool. Waits
// for tasks that have begun, never for a thread: all threads of the pool may be waiting here.
template <class Work>
void in_parallel(xla::ffi::ThreadPool& pool, int64_t tasks, const Work& work) {
  struct Counts {
    std::atomic<int64_t> next{0}, done{0};
  };
  const auto counts = std::make_shared<Counts>();
  // A thread that starts late finds no task, and does not access `work`.
  const auto help = [counts, tasks, &work] {
    for (int64_t task; (task = counts->next.fetch_add(1)) < tasks; counts->done.fetch_add(1)) work(task);
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), tasks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([help] { help(); });
  help();
  while (counts->done.load() < tasks) std::this_thread::yield();
}

}  // namespace causalcine
