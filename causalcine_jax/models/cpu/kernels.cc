// The kernels as XLA calls them (jax.ffi). models/cpu_kernels.py compiles this file for the machine that it is on, and checks shapes and dtypes.
#include "attention.h"
#include "linear.h"

namespace ffi = xla::ffi;
using namespace causalcine;

namespace {

template <class Number>
const Number* read(const ffi::AnyBuffer& buffer) {
  return (const Number*)buffer.untyped_data();
}

// q, out [*films, queries, heads, dim]; k, v [*films, keys, heads, dim]; lengths [*films]
ffi::Error run_attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::Buffer<ffi::S32> lengths, ffi::Result<ffi::AnyBuffer> out) {
  const auto of_q = q.dimensions(), of_k = k.dimensions();
  const size_t films = of_q.size() - 3;
  const Sizes sizes{int64_t(lengths.element_count()), of_q[films], of_k[films], of_q[films + 1], of_q[films + 2]};
  const auto run = [&](auto number) {
    using Number = decltype(number);
    attention<Number>(pool, read<Number>(q), read<Number>(k), read<Number>(v), lengths.typed_data(), (Number*)out->untyped_data(), sizes);
    return ffi::Error::Success();
  };
  if (q.element_type() == ffi::F32) return run(float());
#ifdef __AVX512BF16__
  if (q.element_type() == ffi::BF16) return run(bfloat16());
#endif
  return ffi::Error::InvalidArgument("attention of this dtype was not compiled");
}

// x [rows, inner], w [inner, columns], b [columns], y [rows, columns]
ffi::Error run_linear(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> y) {
#ifdef __AVX512BF16__
  const Matrices sizes{x.dimensions()[0], w.dimensions()[0], w.dimensions()[1]};
  linear(pool, read<bfloat16>(x), read<bfloat16>(w), read<bfloat16>(b), (bfloat16*)y->untyped_data(), sizes);
  return ffi::Error::Success();
#else
  return ffi::Error::InvalidArgument("this processor has no products of bfloat16");
#endif
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    causalcine_attention, run_attention,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::Buffer<ffi::S32>>().Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    causalcine_linear, run_linear, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());

// What was compiled: a head's width must be a multiple of this; and whether bfloat16 is multiplied
extern "C" int causalcine_rows() { return ROWS; }
extern "C" int causalcine_bfloat16() {
#ifdef __AVX512BF16__
  return 1;
#else
  return 0;
#endif
}
