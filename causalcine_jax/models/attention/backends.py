"""One attention function for every network and platform: dense, unmasked, bounded by a length.

A back end that cannot handle a call raises `NotImplementedError`; the platform's next one is tried.
On an accelerator the chosen back end is printed once, with the reasons why others were skipped.
"""

import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.parallel.platform import platform


def _cudnn(q, k, v, lengths):
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError("cuDNN attention computes in bfloat16 or float16 only")
    # cuDNN's backward pass needs even numbers of keys and of queries, so one is padded. The length
    # excludes the padded key; the padded query's output is dropped.
    one_more = lambda x: jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    if k.shape[1] % 2:
        return _cudnn(q, one_more(k), one_more(v), _lengths(q, k, lengths))
    if q.shape[1] % 2:
        return _cudnn(one_more(q), k, v, lengths)[:, :-1]
    if lengths is None:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    # cuDNN needs both lengths, and under vmap both batched: `0 * lengths` is, `full_like` is not.
    # Never a boolean mask: it becomes a dense bias.
    query_lengths = 0 * lengths + q.shape[1]
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=query_lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def _splash(q, k, v, lengths):
    # Imported here because it loads Pallas for TPUs.
    from causalcine_jax.models.attention.splash import splash

    return splash(q, k, v, lengths)


def _xla(q, k, v, lengths):
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="xla"
    )


@jax.custom_vjp
def _own_kernel(q, k, v, lengths):
    return cpu_kernels.flash_attention(q, k, v, _lengths(q, k, lengths))


def _lengths(q, k, lengths):
    return jnp.full(q.shape[:1], k.shape[1], jnp.int32) if lengths is None else lengths


def _own_forward(q, k, v, lengths):
    if not cpu_kernels.differentiates(q.dtype, q.shape[-1]):
        return _own_kernel(q, k, v, lengths), (q, k, v, lengths, None)
    kept = cpu_kernels.flash_attention_with_logs(q, k, v, _lengths(q, k, lengths))
    return kept[0], (q, k, v, lengths, kept)


def _own_backward(operands, gradient):
    q, k, v, lengths, kept = operands
    if kept is not None:
        out, log_sum = kept
        return *cpu_kernels.flash_attention_backward(
            q, k, v, _lengths(q, k, lengths), out, log_sum, gradient
        ), None
    _, backward = jax.vjp(lambda q, k, v: _xla_cpu(q, k, v, lengths), q, k, v)
    return *backward(gradient), None


_own_kernel.defvjp(_own_forward, _own_backward)


# Scores per loop iteration on a CPU, 8 MiB: they stay in the caches. All at once, they would be
# written to memory three times.
SCORES_AT_ONCE = 2**21


def _xla_cpu(q, k, v, lengths):
    """Attention by XLA, in a loop over films or blocks of queries where there are many scores.

    Heads come first, and the softmax's denominator is divided out after the product with v.
    """
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    operands = heads_first(q * q.shape[-1] ** -0.5), heads_first(k), heads_first(v), lengths
    films, heads, queries, _ = operands[0].shape
    scores = heads * queries * k.shape[1]  # of one film
    turns = -(-scores // SCORES_AT_ONCE)
    if films > 1 and films * scores > SCORES_AT_ONCE:
        out = jax.lax.map(lambda film: _by_blocks(turns, *film), operands)
    else:
        out = jax.vmap(lambda *film: _by_blocks(turns, *film))(*operands)
    return heads_first(out).astype(v.dtype)


def _by_blocks(turns: int, q, k, v, length):
    """Attention of one film's scaled queries [h, t, d], in a loop over `turns` blocks of them."""
    if turns == 1:
        return _softmax_sum(q, k, v, length)
    heads, queries, dim = q.shape
    block = -(-queries // turns)
    padded = jnp.pad(q, ((0, 0), (0, turns * block - queries), (0, 0))).reshape(
        heads, turns, block, dim
    )
    out = jax.lax.map(lambda part: _softmax_sum(part, k, v, length), jnp.moveaxis(padded, 1, 0))
    return jnp.moveaxis(out, 0, 1).reshape(heads, turns * block, dim)[:, :queries]


def _softmax_sum(q, k, v, length):
    """softmax(q k^T) v per head, with one division per output instead of one per score."""
    scores = jnp.einsum("htd,hsd->hts", q, k, preferred_element_type=jnp.float32)
    if length is not None:
        scores += jnp.where(jnp.arange(k.shape[1]) < length, 0.0, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    out = jnp.einsum("hts,hsd->htd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out / jnp.sum(weights, axis=-1, keepdims=True)


BACKENDS: dict[str, tuple[Callable, ...]] = {
    # cuDNN is about 8x faster than XLA on H100, but refuses float32 (parity tests run on XLA).
    "gpu": (_cudnn, _xla),
    # XLA writes all scores to memory. Splash refuses float32 (parity tests run on XLA) and head
    # dimensions that are not multiples of 128.
    "tpu": (_splash, _xla),
    # The kernel writes no scores to memory, and its time follows the lengths. _xla_cpu takes a
    # third of the CPU time of jax.nn's forward pass, and half of its forward and backward
    # (causalcine bench attention).
    "cpu": (_own_kernel, _xla_cpu),
}


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(q k^T / sqrt(d)) v over the first `lengths[b]` keys of each element (None: all)."""
    reasons: list[str] = []
    for backend in BACKENDS.get(platform(), (_xla,)):
        try:
            out = backend(q, k, v, lengths)
        except NotImplementedError as reason:
            reasons.append(str(reason))
            continue
        if platform() != "cpu":
            _say_once(backend.__name__.strip("_"), tuple(reasons))
        return out
    raise NotImplementedError("; ".join(reasons))


@functools.cache
def _say_once(name: str, reasons: tuple[str, ...]) -> None:
    """Prints which back end computes attention: XLA's in place of a kernel costs much time."""
    why = f" ({'; '.join(reasons)})" if reasons else ""
    print(f"attention by {name}{why}", file=sys.stderr, flush=True)
