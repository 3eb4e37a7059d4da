"""One attention call for every network and platform: dense, unmasked, bounded by a length.

A back end says "cannot do this here" by `NotImplementedError`; the next one of the platform's list is tried.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.parallel.platform import platform


def _cudnn(q, k, v, lengths):
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError("cuDNN attention computes in bfloat16 or float16 only")
    if k.shape[1] % 2:
        raise NotImplementedError("cuDNN attention's backward pass needs an even number of keys")
    if q.shape[1] % 2:  # and of queries, of which one more changes nothing
        return _cudnn(jnp.pad(q, ((0, 0), (0, 1), (0, 0), (0, 0))), k, v, lengths)[:, :-1]
    if lengths is None:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    # Both lengths must be given, and both batched where one is (full_like is not, under vmap); the query's are always whole.
    # Never a boolean mask: it becomes a dense bias.
    query_lengths = 0 * lengths + q.shape[1]
    return jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=query_lengths, key_value_seq_lengths=lengths, implementation="cudnn"
    )  # fmt: skip


def _splash(q, k, v, lengths):
    from causalcine_jax.models.attention.splash import (
        splash,  # imported where it is used: Pallas for TPUs
    )

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
    kept = cpu_kernels.flash_attention_kept(q, k, v, _lengths(q, k, lengths))
    return kept[0], (q, k, v, lengths, kept)


def _own_backward(operands, gradient):
    q, k, v, lengths, kept = operands
    if kept is not None:
        return *cpu_kernels.flash_attention_backward(
            q, k, v, _lengths(q, k, lengths), *kept, gradient
        ), None
    _, backward = jax.vjp(lambda q, k, v: _xla_cpu(q, k, v, lengths), q, k, v)
    return *backward(gradient), None


_own_kernel.defvjp(_own_forward, _own_backward)


SCORES_AT_ONCE = (
    2**21
)  # of a loop's turn on CPU, 8 MiB: they stay in the caches, where all at once they are written to memory three times


def _xla_cpu(q, k, v, lengths):
    """Heads first, softmax divided out after the product with v, and a loop over films, or over blocks of a film's queries, where scores are many."""
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    operands = heads_first(q * q.shape[-1] ** -0.5), heads_first(k), heads_first(v), lengths
    films, heads, queries, _ = operands[0].shape
    scores = heads * queries * k.shape[1]  # of one film
    turns = -(-scores // SCORES_AT_ONCE)
    if films > 1 and films * scores > SCORES_AT_ONCE:
        out = jax.lax.map(lambda film: _by_blocks(*film, turns), operands)
    else:
        out = jax.vmap(lambda *film: _by_blocks(*film, turns))(*operands)
    return heads_first(out).astype(v.dtype)


def _by_blocks(q, k, v, length, turns: int):
    """Attention of one film's scaled queries [h, t, d], `turns` blocks of them one after the other."""
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
    """softmax(q k^T) v per head; a division per output instead of one per score."""
    scores = jnp.einsum("htd,hsd->hts", q, k, preferred_element_type=jnp.float32)
    if length is not None:
        scores += jnp.where(jnp.arange(k.shape[1]) < length, 0.0, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    out = jnp.einsum("hts,hsd->htd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out / jnp.sum(weights, axis=-1, keepdims=True)


BACKENDS: dict[str, tuple[Callable, ...]] = {
    "gpu": (
        _cudnn,
        _xla,
    ),  # cuDNN is about 8x faster than XLA on H100, but refuses float32 (parity tests run on XLA)
    # XLA writes all scores to memory. Splash refuses float32 (parity tests run on XLA) and heads that are not 128 wide.
    "tpu": (_splash, _xla),
    # The kernel writes no scores to memory, and its time follows the lengths. _xla_cpu takes a third of the CPU time of jax.nn's forward, half of both passes'
    # (causalcine bench attention).
    "cpu": (_own_kernel, _xla_cpu),
}


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(q k^T / sqrt(d)) v over the first `lengths[b]` keys of each element (all of them when None)."""
    reasons = []
    for backend in BACKENDS.get(platform(), (_xla,)):
        try:
            return backend(q, k, v, lengths)
        except NotImplementedError as reason:
            reasons.append(str(reason))
    raise NotImplementedError("; ".join(reasons))
