"""Attention on TPUs by splash attention, the kernel in JAX, with tokens padded to whole blocks.

The scores never leave the chip.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    FullMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jaxtyping import Array, Float, Int

from causalcine_jax.models.attention.kept import BY_SPLASH

# Width of a TPU's registers in numbers: blocks of tokens and heads must be multiples of it.
LANES = 128
# Largest blocks of queries and keys, and keys multiplied at once. The backward kernels with these
# still fit in the 16 MiB of on-chip memory that a program gets by default.
QUERIES, KEYS, KEYS_AT_ONCE = 1024, 2048, 512


def splash(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    lengths: Int[Array, " b"] | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "b t h d"]:
    """softmax(q k^T / sqrt(d)) v over the first `lengths[b]` keys, at least one (None: all).

    Keys beyond a length, padding included, get another segment id than all queries: their scores
    are computed and dropped. `interpret` runs the kernel without a TPU.

    Raises:
      NotImplementedError: the dtype is not bfloat16, whose products the kernel sums in float32, or
        heads do not fill a register.
    """
    (_, queries, heads, dim), keys = q.shape, k.shape[1]
    if q.dtype != jnp.bfloat16:
        raise NotImplementedError("splash attention multiplies in bfloat16 only")
    if dim % LANES:
        raise NotImplementedError(
            f"splash attention takes heads of a multiple of {LANES} channels, not {dim}"
        )
    block_q = _up(-(-queries // -(-queries // QUERIES)), LANES)
    at_once = min(KEYS_AT_ONCE, _up(keys, LANES))
    block_kv = next(
        block
        for block in range(KEYS // at_once * at_once, 0, -at_once)
        if _up(keys, at_once) % block == 0
    )
    heads_first = lambda x, block: jnp.pad(
        jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0))
    )
    q, k, v = (
        heads_first(q * dim**-0.5, block_q),
        heads_first(k, block_kv),
        heads_first(v, block_kv),
    )
    segments = None
    if lengths is not None or k.shape[2] > keys:
        seen = jnp.arange(k.shape[2]) < (keys if lengths is None else lengths[:, None])
        beyond = jnp.broadcast_to(~seen, (q.shape[0], k.shape[2])).astype(jnp.int32)
        segments = SegmentIds(jnp.zeros((q.shape[0], q.shape[2]), jnp.int32), beyond)
    kernel = make_splash_mha(
        MultiHeadMask([FullMask((q.shape[2], k.shape[2]))] * heads),
        block_sizes=BlockSizes(
            block_q, block_kv, at_once, block_q, block_kv, at_once, block_q, at_once
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=None if lengths is None else BY_SPLASH,
        interpret=interpret,
    )
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v, segments), 1, 2)[:, :queries]


def _up(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple
