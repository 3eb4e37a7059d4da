"""The UMT5 text encoder as Wan2.1 uses it (`wan/modules/t5.py`, T5Encoder with shared_pos=False).

Token ids are embedded, pass through L pre-norm layers and are normed once more. A layer is
self-attention with a learned bias per relative distance, then a gated feed-forward. The rows of
padding tokens are set to zero, because the diffusion transformer expects zeros after each prompt.

It differs from a usual transformer in three ways. Every layer has its own table of relative
position biases. Attention has no 1/sqrt(d) scale (the initialisation of q includes it). No linear
layer has a bias.

Layers are stacked along a leading axis and scanned, so compile time does not grow with depth.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from causalcine_jax.models import nn
from causalcine_jax.network_sizes import TextEncoderConfig
from causalcine_jax.parallel.mesh import AXES, shard
from causalcine_jax.parallel.sharding import all_gather_params
from causalcine_jax.utils.arrays import AnyArray


@functools.cache
def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every (query, key) pair of a text of `length` tokens, int32 [length, length].

    Half of the buckets are for keys at or before the query, half for keys after it. In each half,
    distances below a quarter of `num_buckets` have their own bucket. Greater distances share
    buckets of logarithmically growing width, up to `max_distance`.
    """
    half = num_buckets // 2
    exact = half // 2
    position = np.arange(length)
    offset = position[None, :] - position[:, None]
    distance = np.abs(offset)
    # float32 as in the reference: at a bucket's edge, the logarithm's rounding decides.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return ((offset > 0) * half + np.where(distance < exact, distance, far)).astype(np.int32)


class UMT5Attention(nn.Module):
    """Multi-head self-attention, unscaled, with an additive bias."""

    def __init__(self, cfg: TextEncoderConfig, key):
        q, k, v, o = jax.random.split(key, 4)
        self.num_heads = cfg.num_heads
        self.q = nn.Linear(
            cfg.dim, cfg.dim_attn, key=q, bias=False, std=(cfg.dim * cfg.dim_attn) ** -0.5
        )
        self.k = nn.Linear(cfg.dim, cfg.dim_attn, key=k, bias=False, std=cfg.dim**-0.5)
        self.v = nn.Linear(cfg.dim, cfg.dim_attn, key=v, bias=False, std=cfg.dim**-0.5)
        self.o = nn.Linear(
            cfg.dim_attn, cfg.dim, key=o, bias=False, std=(cfg.num_heads * cfg.dim_attn) ** -0.5
        )

    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b h t s"]
    ) -> Float[Array, "b t d"]:
        def heads(y):
            return y.reshape(*y.shape[:-1], self.num_heads, -1)

        q, k, v = heads(self.q(x)), shard(heads(self.k(x)), "data"), shard(heads(self.v(x)), "data")
        logits = jnp.einsum("bthc,bshc->bhts", q, k, preferred_element_type=jnp.float32) + bias
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        y = jnp.einsum("bhts,bshc->bthc", weights, v)
        return self.o(y.reshape(*y.shape[:-2], -1))


class FeedForward(nn.Module):
    """fc2( fc1(x) * GELU(gate(x)) ), GELU in its tanh form."""

    def __init__(self, cfg: TextEncoderConfig, key):
        gate, fc1, fc2 = jax.random.split(key, 3)
        self.gate_0 = nn.Linear(cfg.dim, cfg.dim_ffn, key=gate, bias=False, std=cfg.dim**-0.5)
        self.fc1 = nn.Linear(cfg.dim, cfg.dim_ffn, key=fc1, bias=False, std=cfg.dim**-0.5)
        self.fc2 = nn.Linear(cfg.dim_ffn, cfg.dim, key=fc2, bias=False, std=cfg.dim_ffn**-0.5)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.fc2(self.fc1(x) * jax.nn.gelu(self.gate_0(x), approximate=True))


class UMT5Block(nn.Module):
    """One layer; `pos_embedding` [num_buckets, heads] is its table of relative position biases."""

    def __init__(self, cfg: TextEncoderConfig, key):
        attn, ffn, position = jax.random.split(key, 3)
        self.eps = cfg.eps
        self.norm1 = nn.RMSNorm(cfg.dim)
        self.attn = UMT5Attention(cfg, attn)
        self.norm2 = nn.RMSNorm(cfg.dim)
        self.ffn = FeedForward(cfg, ffn)
        std = (2 * cfg.num_buckets * cfg.num_heads) ** -0.5
        self.pos_embedding = nn.Param(
            std * jax.random.normal(position, (cfg.num_buckets, cfg.num_heads))
        )

    def __call__(
        self, x: Float[Array, "b t d"], buckets: Int[Array, "t s"], mask: Bool[Array, "b s"]
    ) -> Float[Array, "b t d"]:
        position = jnp.moveaxis(
            self.pos_embedding[...][buckets].astype(jnp.float32), -1, 0
        )  # [h, t, s]
        bias = jnp.where(mask[:, None, None, :], position, jnp.finfo(jnp.float32).min)
        x = x + self.attn(self.norm1(x, self.eps), bias)
        return x + self.ffn(self.norm2(x, self.eps))


class UMT5Encoder(nn.Module):
    """Prompts' token ids to embeddings, in the weights' dtype; norms and softmax in float32."""

    def __init__(self, cfg: TextEncoderConfig, *, key):
        embedding, blocks = jax.random.split(key)
        self.cfg = cfg
        self.token_embedding = nn.Param(jax.random.normal(embedding, (cfg.vocab_size, cfg.dim)))
        self.blocks = nn.stack_init(lambda k: UMT5Block(cfg, k), cfg.num_layers, blocks)
        self.norm = nn.RMSNorm(cfg.dim)

    def __call__(
        self, ids: Int[AnyArray, "*b t"], mask: Shaped[AnyArray, "*b t"]
    ) -> Float[Array, "*b t d"]:
        """Embeds every prompt on its own.

        Args:
          ids: token ids, padded with 0; any leading axes, for example [film, shot, token].
          mask: 1 or True for a prompt's tokens (its end-of-sequence token included), 0 for padding.

        Returns:
          Embeddings; rows where `mask` is 0 are zero.
        """
        *batch, length = ids.shape
        kept = jnp.asarray(mask).reshape(-1, length) != 0
        tokens = shard(jnp.asarray(ids).reshape(-1, length))
        buckets = jnp.asarray(relative_buckets(length, self.cfg.num_buckets, self.cfg.max_distance))
        # The table is never gathered: every device looks up its own columns for all prompts.
        x = shard(shard(self.token_embedding[...][tokens], None, None, AXES))
        x, _ = jax.lax.scan(
            lambda x, block: (
                all_gather_params(block)(shard(x, "data", "seq"), buckets, kept),
                None,
            ),
            x,
            self.blocks,
        )
        x = jnp.where(kept[..., None], self.norm(x, self.cfg.eps), 0)
        return x.reshape(*batch, length, -1)
