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
LEAST_TIME = 50.0  # of 0..1000


class DiTAttention(Module):
    """The four projections and the full-width qk norms of one attention."""

    def __init__(self, dim: int, *, key):
        q, k, v, o = jax.random.split(key, 4)
        self.q = Linear(dim, dim, key=q)
        self.k = Linear(dim, dim, key=k)
        self.v = Linear(dim, dim, key=v)
        self.o = Linear(dim, dim, key=o)
        self.norm_q = RMSNorm(dim)
        self.norm_k = RMSNorm(dim)


class DiTBlock(Module):
    """A transformer block: modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, config: TransformerConfig, *, key):
        keys = jax.random.split(key, 5)
        self.modulation = Param(jax.random.normal(keys[0], (6, config.dim)) / config.dim**0.5)
        self.self_attn = DiTAttention(config.dim, key=keys[1])
        self.norm3 = LayerNorm(config.dim)
        self.cross_attn = DiTAttention(config.dim, key=keys[2])
        self.ffn_0 = Linear(config.dim, config.ffn_dim, key=keys[3])
        self.ffn_2 = Linear(config.ffn_dim, config.dim, key=keys[4])


class InputSkip(Module):
    """What is added to the head's output: a gated product of the noisy patches.

    out(silu(gate(tokens)) * value(patches)), zero until it is trained. A token of `dim` numbers
    cannot hold all of a larger patch. Here the patch itself reaches the output, and the tokens
    decide, from time and content, which of its directions to keep.
    """

    def __init__(self, config: TransformerConfig, *, key):
        gate, value, out = jax.random.split(key, 3)
        patch, width = int(np.prod(config.patch_size)), config.skip_dim
        self.gate = Linear(config.dim, width, key=gate)
        self.value = Linear(config.in_dim * patch, width, key=value)
        self.out = Linear(width, config.out_dim * patch, key=out, std=0.0)

    def __call__(self, tokens: Float[Array, "*b d"], patches: Float[Array, "*b u"]):
        gate = jax.nn.silu(self.gate(tokens, FLOAT32).astype(jnp.float32))
        return self.out(gate * self.value(patches, FLOAT32).astype(jnp.float32), FLOAT32)


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
        self.blocks = stack_init(lambda k: DiTBlock(config, key=k), config.num_layers, keys[6])
        self.head_modulation = Param(jax.random.normal(keys[7], (2, dim)) / dim**0.5)
        self.head = Linear(dim, config.out_dim * patch, key=keys[8], std=0.0)
        if config.skip_dim:  # a key of its own: the other parts are those of a network without it
            self.skip = InputSkip(config, key=jax.random.fold_in(key, 1))


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
    config: TransformerConfig, latents: Float[Array, "b f h w c"], chunk_frames: int
) -> Float[Array, "b s t u"]:
    """The patches of the chunks of latent frames.

    A patch's vector is ordered (channel, row, column), as the Conv3d's weights are.
    """
    _, rows, columns = config.patch_size
    patches = rearrange(
        latents, "b (s f) (h r) (w q) c -> b s (f h w) (c r q)", f=chunk_frames, r=rows, q=columns
    )
    return shard(patches, "data", None, "seq")


def embed_patches(model: Transformer, patches: Float[Array, "b s t u"]) -> Float[Array, "b s t d"]:
    """The tokens of patches, float32."""
    return all_gather_params(model.patch_embedding)(patches).astype(jnp.float32)


def velocity(
    model: Transformer,
    patches: Float[Array, "b f p v"],
    noisy: Float[Array, "b f h w c"],
    t: Float[Array, "b s"],
) -> Float[Array, "b f h w c"]:
    """The velocity at (`noisy`, t) of S segments of equal length, float32, from the head's output.

    Patches are ordered (row, column, channel), unlike the input's. Where the head gives clean
    latents x0, the velocity is (noisy - x0) / sigma with sigma = max(t, LEAST_TIME) / 1000, which
    bounds it. Below LEAST_TIME the head therefore learns x0 - (sigma - t / 1000) (noise - x0).
    """
    height, width = token_grid(model.config, *noisy.shape[2:4])
    _, rows, columns = model.config.patch_size
    out = rearrange(
        patches, "b f (h w) (r s c) -> b f (h r) (w s) c", h=height, w=width, r=rows, s=columns
    )
    if model.config.predicts == "velocity":
        return out
    sigma = jnp.maximum(t, LEAST_TIME) / 1000
    per_frame = jnp.repeat(sigma, out.shape[1] // t.shape[1], axis=1)
    return (noisy.astype(out.dtype) - out) / per_frame[:, :, None, None, None]


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


def text_keys_values(model: Transformer, text: Float[Array, "b shots t c"]) -> TextContext:
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

    def layer(block: DiTBlock):
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


def self_attention_inputs(block: DiTBlock, x: Float[Array, "*b d"], config: TransformerConfig):
    """q, k (unrotated, normed over the full width) and v of modulated tokens x, in heads."""
    attn = block.self_attn
    q = heads(attn.norm_q(attn.q(x), config.eps), config)
    k = heads(attn.norm_k(attn.k(x), config.eps), config)
    return q, k, heads(attn.v(x), config)


def cross_attention(
    block: DiTBlock, x: Float[Array, "b s t d"], k, v, shot, config: TransformerConfig
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


def feed_forward(block: DiTBlock, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    return block.ffn_2(jax.nn.gelu(block.ffn_0(x), approximate=True))


def head(
    model: Transformer,
    x: Float[Array, "b s t d"],
    e: Float[Array, "b s d"],
    patches: Float[Array, "b s t u"],
) -> Float[Array, "b s t v"]:
    """Modulated norm and projection to patches, float32.

    e is the time embedding, unprojected; `patches` are those that the tokens x began as.
    """
    modulation = model.head_modulation[...].astype(jnp.float32) + e[:, :, None, :]
    shift, scale = modulation[:, :, None, 0], modulation[:, :, None, 1]
    normed = modulated_norm(x, shift, scale, model.config.eps)
    out = all_gather_params(model.head)(normed, FLOAT32).astype(jnp.float32)
    if model.config.skip_dim:
        out = out + all_gather_params(model.skip)(normed, patches).astype(jnp.float32)
    return shard(out, "data")
