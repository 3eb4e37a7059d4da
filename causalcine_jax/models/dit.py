"""The diffusion transformer's parameters and parts (Wan2.1 `wan/modules/model.py`).

The parts are small functions of (module, arrays) without any attention pattern. `packed.py`
combines them for training and for streaming. The residual stream, modulation, time embedding and
norm statistics are float32; a Linear computes in the dtype of its weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.models.gather import gather
from causalcine_jax.models.nn import (
    LayerNorm,
    Linear,
    Module,
    Param,
    RMSNorm,
    layer_norm,
    stack_init,
)
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel.mesh import shard
from causalcine_jax.parallel.sharding import all_gather_params
from causalcine_jax.parallel.ulysses import over_tokens

# Where Wan2.1 computes in float32: GPUs would otherwise round to TF32, and TPUs to bfloat16.
FLOAT32 = "highest"


class Attention(Module):
    """The four projections and the full-width qk norms of one attention."""

    def __init__(self, dim: int, *, key):
        q, k, v, o = jax.random.split(key, 4)
        self.q = Linear(dim, dim, key=q)
        self.k = Linear(dim, dim, key=k)
        self.v = Linear(dim, dim, key=v)
        self.o = Linear(dim, dim, key=o)
        self.norm_q = RMSNorm(dim)
        self.norm_k = RMSNorm(dim)


class Block(Module):
    """A transformer block: modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, config: TransformerConfig, *, key):
        keys = jax.random.split(key, 5)
        self.modulation = Param(jax.random.normal(keys[0], (6, config.dim)) / config.dim**0.5)
        self.self_attn = Attention(config.dim, key=keys[1])
        self.norm3 = LayerNorm(config.dim)
        self.cross_attn = Attention(config.dim, key=keys[2])
        self.ffn_0 = Linear(config.dim, config.ffn_dim, key=keys[3])
        self.ffn_2 = Linear(config.ffn_dim, config.dim, key=keys[4])


class Transformer(Module):
    """WanModel (text to video). `blocks` stacks all layers on a leading axis for `jax.lax.scan`."""

    def __init__(self, config: TransformerConfig, *, key):
        keys = jax.random.split(key, 9)
        dim, patch = config.dim, int(np.prod(config.patch_size))
        self.config = config
        self.patch_embedding = Linear(config.in_dim * patch, dim, key=keys[0])
        self.text_embedding_0 = Linear(config.text_dim, dim, key=keys[1], std=0.02)
        self.text_embedding_2 = Linear(dim, dim, key=keys[2], std=0.02)
        self.time_embedding_0 = Linear(config.freq_dim, dim, key=keys[3], std=0.02)
        self.time_embedding_2 = Linear(dim, dim, key=keys[4], std=0.02)
        self.time_projection_1 = Linear(dim, 6 * dim, key=keys[5])
        self.blocks = stack_init(lambda k: Block(config, key=k), config.num_layers, keys[6])
        self.head_modulation = Param(jax.random.normal(keys[7], (2, dim)) / dim**0.5)
        self.head = Linear(dim, config.out_dim * patch, key=keys[8], std=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextContext:
    """Keys and values of every layer's cross-attention to the shots' prompts, computed once."""

    k: Float[Array, "l b shots t h d"]
    v: Float[Array, "l b shots t h d"]


def token_grid(config: TransformerConfig, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens of a latent frame of height x width.

    Raises:
      UsageError: the patch size does not divide the frame.
    """
    _, rows, columns = config.patch_size
    if height % rows or width % columns:
        raise UsageError(
            f"latent frames of {height}x{width} cannot be cut into patches of {rows}x{columns}"
        )
    return height // rows, width // columns


def patchify(
    model: Transformer, latents: Float[Array, "b f h w c"], chunk_frames: int
) -> Float[Array, "b s t d"]:
    """Latent frames to the tokens of chunks.

    A patch's vector is ordered (channel, row, column), as the Conv3d's weights are.
    """
    _, rows, columns = model.config.patch_size
    patches = rearrange(
        latents, "b (s f) (h r) (w q) c -> b s (f h w) (c r q)", f=chunk_frames, r=rows, q=columns
    )
    return all_gather_params(model.patch_embedding)(shard(patches, "data", None, "seq")).astype(
        jnp.float32
    )


def unpatchify(
    model: Transformer, patches: Float[Array, "b f p v"], grid: tuple[int, int]
) -> Float[Array, "b f h w c"]:
    """Head output to latent frames; ordered (row, column, channel), unlike the input's patches."""
    _, rows, columns = model.config.patch_size
    return rearrange(
        patches, "b f (h w) (r s c) -> b f (h r) (w s) c", h=grid[0], w=grid[1], r=rows, s=columns
    )


def sinusoid(t: Float[Array, "*b"], dim: int) -> Float[Array, "*b d"]:
    """[cos | sin] of t * 10000^(-i / (dim/2)), 0 <= t <= 1000, to float64 accuracy.

    The angle of t's integer part comes from an exact table; that of the fraction is added.
    """
    half = dim // 2
    frequency = 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.outer(np.arange(1001), frequency)
    t = t.astype(jnp.float32)
    whole = jnp.clip(jnp.floor(t), 0, 1000)
    cos_a, sin_a = (
        jnp.asarray(f(angles), jnp.float32)[whole.astype(jnp.int32)] for f in (np.cos, np.sin)
    )
    rest = (t - whole)[..., None] * jnp.asarray(frequency, jnp.float32)
    cos_b, sin_b = jnp.cos(rest), jnp.sin(rest)
    return jnp.concatenate([cos_a * cos_b - sin_a * sin_b, sin_a * cos_b + cos_a * sin_b], axis=-1)


def embed_time(
    model: Transformer, t: Float[Array, "*b"]
) -> tuple[Float[Array, "*b d"], Float[Array, "*b 6 d"]]:
    """The time embedding e (for the head) and its projection e0 (for the blocks), float32.

    t is in 0..1000.
    """
    first, second, projection = all_gather_params(
        (model.time_embedding_0, model.time_embedding_2, model.time_projection_1)
    )
    e = first(sinusoid(t, model.config.freq_dim), FLOAT32)
    e = second(jax.nn.silu(e), FLOAT32).astype(jnp.float32)
    e0 = projection(jax.nn.silu(e), FLOAT32).astype(jnp.float32)
    return e, rearrange(e0, "... (six d) -> ... six d", six=6)


def embed_text(model: Transformer, text: Float[Array, "b shots t c"]) -> TextContext:
    """Keys and values of every layer's cross-attention.

    Prompts are zero-padded to text_len and, as in Wan2.1, never masked.

    Raises:
      UsageError: a prompt is longer than text_len.
    """
    config = model.config
    missing = config.text_len - text.shape[2]
    if missing < 0:
        raise UsageError(
            f"a prompt of {text.shape[2]} tokens is longer than "
            f"this model's text_len {config.text_len}"
        )
    text = jnp.pad(text, ((0, 0), (0, 0), (0, missing), (0, 0)))
    first, second = all_gather_params((model.text_embedding_0, model.text_embedding_2))
    # Every device of a row needs the same context. Each computes a part of the prompt's tokens, and
    # each layer gathers its part.
    context = second(jax.nn.gelu(first(shard(text, "data", None, "seq")), approximate=True))

    def layer(block: Block):
        attn = all_gather_params(block.cross_attn)
        return heads(attn.norm_k(attn.k(context), config.eps), config), heads(
            attn.v(context), config
        )

    # Recompute a layer's keys and values in the backward pass, or it would keep the gathered
    # weights of all layers.
    k, v = jax.lax.map(jax.checkpoint(layer, prevent_cse=False), model.blocks)
    return TextContext(*(shard(x, None, "data", None, "seq") for x in (k, v)))


def heads(x: Float[Array, "*b d"], config: TransformerConfig) -> Float[Array, "*b h e"]:
    return rearrange(x, "... (h e) -> ... h e", h=config.num_heads)


def merge_heads(x: Float[Array, "*b h e"]) -> Float[Array, "*b d"]:
    return rearrange(x, "... h e -> ... (h e)")


def modulated_norm(x, shift, scale, eps: float):
    """LayerNorm(x) * (1 + scale) + shift in float32."""
    return layer_norm(x, eps) * (1 + scale) + shift


def self_attention_inputs(block: Block, x: Float[Array, "*b d"], config: TransformerConfig):
    """q, k (unrotated, normed over the full width) and v of modulated tokens x, in heads."""
    attn = block.self_attn
    q = heads(attn.norm_q(attn.q(x), config.eps), config)
    k = heads(attn.norm_k(attn.k(x), config.eps), config)
    return q, k, heads(attn.v(x), config)


def cross_attention(
    block: Block, x: Float[Array, "b s t d"], k, v, shot, config: TransformerConfig
) -> Float[Array, "b s t d"]:
    """Attention of each segment's tokens to its own shot's prompt.

    k, v [b, shots, text, h, e]; shot [b, s] indexes shots.
    """
    attn = block.cross_attn
    q = heads(attn.norm_q(attn.q(block.norm3(x, config.eps)), config.eps), config)

    def attend(q, k, v, shot):
        fold = lambda a: a.reshape(-1, *a.shape[2:])
        return attention(fold(q), fold(gather(k, shot)), fold(gather(v, shot))).reshape(q.shape)

    return attn.o(merge_heads(over_tokens(attend)(q, k, v, shot)))


def feed_forward(block: Block, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    return block.ffn_2(jax.nn.gelu(block.ffn_0(x), approximate=True))


def head(
    model: Transformer, x: Float[Array, "b s t d"], e: Float[Array, "b s d"]
) -> Float[Array, "b s t v"]:
    """Modulated norm and projection to patches, float32. e is the time embedding, unprojected."""
    modulation = model.head_modulation[...].astype(jnp.float32) + e[:, :, None, :]
    shift, scale = modulation[:, :, None, 0], modulation[:, :, None, 1]
    patches = all_gather_params(model.head)(
        modulated_norm(x, shift, scale, model.config.eps), FLOAT32
    ).astype(jnp.float32)
    return shard(patches, "data")
