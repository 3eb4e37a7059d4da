// The kernels' entry points for XLA (jax.ffi). models/cpu/kernels.py compiles this file on the
// machine that runs it, and checks shapes and dtypes.
#include "fields.h"
#include "linear.h"
#include "norm.h"

namespace ffi = xla::ffi;
using namespace causalcine;

namespace {

template <class Number>
const Number* read(const ffi::AnyBuffer& buffer) {
  return (const Number*)buffer.untyped_data();
}

template <class Buffer>
Sizes sizes_of(const Buffer& q, const Buffer& k) {
  const auto of_q = q.dimensions(), of_k = k.dimensions();
  const size_t films = of_q.size() - 3;
  Sizes sizes{1, of_q[films], of_k[films], of_q[films + 1], of_q[films + 2]};
  for (size_t i = 0; i < films; ++i) sizes.films *= of_q[i];
  return sizes;
}

// q, out [*films, queries, heads, dim]; k, v [*films, keys, heads, dim]; lengths [*films]
ffi::Error run_attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::Buffer<ffi::S32> lengths, ffi::Result<ffi::AnyBuffer> out) {
  const Sizes sizes = sizes_of(q, k);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    attention<Number>(pool, read<Number>(q), read<Number>(k), read<Number>(v), lengths.typed_data(), (Number*)out->untyped_data(), nullptr, sizes);
    return ffi::Error::Success();
  };
  if (q.element_type() == ffi::F32) return run(float());
#ifdef __AVX512BF16__
  if (q.element_type() == ffi::BF16) return run(bfloat16());
#endif
  return ffi::Error::InvalidArgument("attention of this dtype was not compiled");
}

using Floats = ffi::Buffer<ffi::F32>;
using Integers32 = ffi::Buffer<ffi::S32>;

// Attention with the inputs of its backward pass: log_sum [films, heads, queries], base 2
ffi::Error run_attention_kept(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Integers32 lengths, ffi::Result<Floats> out, ffi::Result<Floats> log_sum) {
  attention<float>(pool, q.typed_data(), k.typed_data(), v.typed_data(), lengths.typed_data(), out->typed_data(), log_sum->typed_data(), sizes_of(q, k));
  return ffi::Error::Success();
}

ffi::Error run_attention_backward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Integers32 lengths, Floats out, Floats log_sum, Floats gradient,
                                  ffi::Result<Floats> dq, ffi::Result<Floats> dk, ffi::Result<Floats> dv) {
  attention_backward(pool, q.typed_data(), k.typed_data(), v.typed_data(), lengths.typed_data(), out.typed_data(), log_sum.typed_data(), gradient.typed_data(),
                     dq->typed_data(), dk->typed_data(), dv->typed_data(), sizes_of(q, k));
  return ffi::Error::Success();
}

Pass pass_of(const Floats& q, const Floats& pool, const Integers32& frame, const Integers32& length, const Floats& cosine, const Floats& sine) {
  const auto own = q.dimensions(), past = pool.dimensions();
  return {own[0], own[1], own[2] / past[2], past[2], past[1], frame.dimensions()[2], own[3], own[4], frame.typed_data(), length.typed_data(), cosine.typed_data(), sine.typed_data()};
}

// What a pass with rounded products multiplies: bfloat16 where the processor has products of it.
#ifdef __AVX512BF16__
using Rounded = bfloat16;
#else
using Rounded = float;
#endif

// Shapes as in fields.h. `rounded`: products are of bfloat16
ffi::Error run_fields(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Floats pool_k, Floats pool_v, Integers32 frame, Integers32 length, Floats cosine, Floats sine,
                      ffi::Result<Floats> out, ffi::Result<Floats> log_sum, bool rounded) {
  const Tokens<const float> x{q.typed_data(), k.typed_data(), v.typed_data(), pool_k.typed_data(), pool_v.typed_data()};
  const auto run = rounded ? fields<Rounded> : fields<float>;
  run(pool, pass_of(q, pool_k, frame, length, cosine, sine), x, out->typed_data(), log_sum->typed_data());
  return ffi::Error::Success();
}

ffi::Error run_fields_backward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Floats pool_k, Floats pool_v, Integers32 frame, Integers32 length, Floats cosine,
                               Floats sine, Floats out, Floats log_sum, Floats gradient, ffi::Result<Floats> dq, ffi::Result<Floats> dk, ffi::Result<Floats> dv,
                               ffi::Result<Floats> dpool_k, ffi::Result<Floats> dpool_v, bool rounded) {
  const Tokens<const float> x{q.typed_data(), k.typed_data(), v.typed_data(), pool_k.typed_data(), pool_v.typed_data()};
  const Tokens<float> d{dq->typed_data(), dk->typed_data(), dv->typed_data(), dpool_k->typed_data(), dpool_v->typed_data()};
  const auto run = rounded ? fields_backward<Rounded> : fields_backward<float>;
  run(pool, pass_of(q, pool_k, frame, length, cosine, sine), x, out.typed_data(), log_sum.typed_data(), gradient.typed_data(), d);
  return ffi::Error::Success();
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

template <class X, class W, class Y>
Convolution convolution_of(const X& x, const W& w, const Y& y, int64_t ahead, int64_t top, int64_t left) {
  const auto in = x.dimensions(), taps = w.dimensions(), out = y.dimensions();
  return {in[0], in[1], in[2], in[3], in[4], out[1], out[2], out[3], out[4], taps[0], taps[1], taps[2], ahead, top, left};
}

// x [batch, frames, height, width, inner], w [taps, tall, wide, inner, outer], b [outer]; y has x's
// layout and its own sizes
ffi::Error run_convolution(ffi::ThreadPool pool, Floats x, Floats w, Floats b, ffi::Result<Floats> y, int64_t ahead, int64_t top, int64_t left) {
  const Convolution c = convolution_of(x, w, *y, ahead, top, left);
  const auto run = half_registers(c.outer) ? convolve<HALF> : convolve<LANES>;
  run(pool, c, x.typed_data(), w.typed_data(), b.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error run_convolution_gradient(ffi::ThreadPool pool, Floats x, Floats gradient, ffi::Result<Floats> w, ffi::Result<Floats> b, int64_t ahead, int64_t top,
                                    int64_t left) {
  const Convolution c = convolution_of(x, *w, gradient, ahead, top, left);
  const auto run = half_registers(c.outer) ? convolution_gradient<HALF> : convolution_gradient<LANES>;
  run(pool, c, x.typed_data(), gradient.typed_data(), w->typed_data(), b->typed_data());
  return ffi::Error::Success();
}

// x [*pixels, channels], gamma [channels]
ffi::Error run_norm_silu(ffi::ThreadPool pool, Floats x, Floats gamma, ffi::Result<Floats> y) {
  const int64_t channels = gamma.element_count(), pixels = x.element_count() / channels;
  const auto run = half_registers(channels) ? norm_silu<HALF> : norm_silu<LANES>;
  run(pool, x.typed_data(), gamma.typed_data(), y->typed_data(), pixels, channels);
  return ffi::Error::Success();
}

ffi::Error run_norm_silu_gradient(ffi::ThreadPool pool, Floats x, Floats gamma, Floats gradient, ffi::Result<Floats> of_x, ffi::Result<Floats> of_gamma) {
  const int64_t channels = gamma.element_count(), pixels = x.element_count() / channels;
  const auto run = half_registers(channels) ? norm_silu_gradient<HALF> : norm_silu_gradient<LANES>;
  run(pool, x.typed_data(), gamma.typed_data(), gradient.typed_data(), of_x->typed_data(), of_gamma->typed_data(), pixels, channels);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    causalcine_attention, run_attention,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::Buffer<ffi::S32>>().Ret<ffi::AnyBuffer>());

#define KEPT_ARGS Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Integers32>()
#define FIELDS_ARGS Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Integers32>().Arg<Integers32>().Arg<Floats>().Arg<Floats>()
#define GRADIENT_ARGS Arg<Floats>().Arg<Floats>().Arg<Floats>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_attention_kept, run_attention_kept, ffi::Ffi::Bind().KEPT_ARGS.Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_attention_backward, run_attention_backward,
                              ffi::Ffi::Bind().KEPT_ARGS.GRADIENT_ARGS.Ret<Floats>().Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_fields, run_fields, ffi::Ffi::Bind().FIELDS_ARGS.Ret<Floats>().Ret<Floats>().Attr<bool>("rounded"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_fields_backward, run_fields_backward,
                              ffi::Ffi::Bind().FIELDS_ARGS.GRADIENT_ARGS.Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>().Attr<bool>("rounded"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    causalcine_linear, run_linear, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());

#define WINDOW Attr<int64_t>("ahead").Attr<int64_t>("top").Attr<int64_t>("left")

XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_convolution, run_convolution,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>().WINDOW);
XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_convolution_gradient, run_convolution_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>().WINDOW);

XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_norm_silu, run_norm_silu, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(causalcine_norm_silu_gradient, run_norm_silu_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>());

// Compile-time facts: the divisors of a head's width; whether bfloat16 is multiplied
extern "C" int causalcine_rows() { return ROWS; }
extern "C" int causalcine_lanes() { return LANES; }
extern "C" int causalcine_bfloat16() {
#ifdef __AVX512BF16__
  return 1;
#else
  return 0;
#endif
}
