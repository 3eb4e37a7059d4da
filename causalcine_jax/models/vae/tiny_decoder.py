"""TAEHV for Wan2.1: a small, fast decoder of the same latents, with some loss of sharpness.

Source: github.com/madebyollin/taehv, taew2_1.pth.

    latents [B,F,h,w,16], normalised -> 3 tanh(x/3) -> conv
    -> three stages of {three memory blocks, doubled size, more frames, conv}
    -> conv -> video in [0,1]

A memory block reads its input frame and the one before it, so a stream stores only one frame per
block. It replaces the VAE in a rollout, with the same `decode_first` and `decode_next`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError
from causalcine_jax.models.nn import Module, Param
from causalcine_jax.models.vae.convolution import conv2d, conv_init, doubling_conv2d
from causalcine_jax.models.vae.layers import Past
from causalcine_jax.parallel.mesh import frames_axis
from causalcine_jax.parallel.sharding import all_gather_params

LATENT_CHANNELS = 16
GROWS = (1, 2, 2)  # output frames per input frame, by stage
DIMS = (256, 128, 64)  # channels of a stage's memory blocks
# Dropped of the film's first four frames: Wan2.1's first latent frame is one video frame.
TRIMMED = 3

Frames = Float[Array, "b t h w c"]
SameSize = Float[Array, "b t h w o"]
Latents = Float[Array, "b f y x 16"]
Video = Float[Array, "b t h w 3"]


class Conv(Module):
    """3x3 convolution of every frame by itself."""

    def __init__(self, d_in: int, d_out: int, *, key, bias: bool = True):
        self.weight = Param(conv_init(key, (3, 3, d_in, d_out)))
        self.bias = Param(jnp.zeros((d_out,))) if bias else None

    def __call__(self, x: Frames) -> SameSize:
        return conv2d(x, self.weight[...], None if self.bias is None else self.bias[...])


class MemoryBlock(Module):
    """Three convolutions of a frame and the one before it, beside a shortcut."""

    def __init__(self, dim: int, *, key):
        keys = jax.random.split(key, 3)
        self.conv = nnx.List(
            [Conv(2 * dim if n == 0 else dim, dim, key=k) for n, k in enumerate(keys)]
        )

    def __call__(self, x: Frames, past: Past) -> Frames:
        first, second, third = self.conv
        y = jnp.concatenate([x, past.extend(x, frames=1)[:, :-1]], axis=-1)
        return jax.nn.relu(third(jax.nn.relu(second(jax.nn.relu(first(y))))) + x)


class DecoderStage(Module):
    """Memory blocks, then doubles height and width and multiplies the frames by `grow`."""

    def __init__(self, dim: int, d_out: int, grow: int, *, key):
        keys = jax.random.split(key, 5)
        self.blocks = nnx.List([MemoryBlock(dim, key=k) for k in keys[:3]])
        self.grow = Param(conv_init(keys[3], (1, 1, dim, dim * grow)))
        self.conv = Conv(dim, d_out, key=keys[4], bias=False)

    def __call__(self, x: Frames, past: Past) -> Float[Array, "b u 2*h 2*w o"]:
        for block in self.blocks:
            x = block(x, past)
        grow = self.grow[...][0, 0]
        # Before enlarging, because it acts on single pixels.
        x = jnp.einsum("bthwi,io->bthwo", x, grow)
        x = rearrange(x, "b t h w (n c) -> b (t n) h w c", c=grow.shape[0])
        return doubling_conv2d(x, self.conv.weight[...], None)


class TinyDecoder(Module):
    """Latents to video in the dtype of its weights. It has no encoder."""

    def __init__(self, *, key):
        keys = jax.random.split(key, len(DIMS) + 2)
        outs = (*DIMS[1:], DIMS[-1])
        self.conv_in = Conv(LATENT_CHANNELS, DIMS[0], key=keys[0])
        self.stages = nnx.List(
            [
                DecoderStage(*sizes, key=k)
                for *sizes, k in zip(DIMS, outs, GROWS, keys[1:-1], strict=True)
            ]
        )
        self.conv_out = Conv(DIMS[-1], 3, key=keys[-1])

    @jax.jit
    def decode_first(self, latents: Latents) -> tuple[Video, tuple[Array, ...]]:
        """The film's first F latent frames -> 4F - 3 video frames and the cache for `decode_next`.

        The video is [B,T,8h,8w,3] in [-1,1].
        """
        past = Past()
        return self._decode(latents, past)[:, TRIMMED:], past.cache

    @partial(jax.jit, donate_argnums=1)
    def decode_next(
        self, cache: tuple[Array, ...], latents: Latents
    ) -> tuple[Video, tuple[Array, ...]]:
        """The next F latent frames -> 4F frames of video and the new cache. `cache` is donated."""
        past = Past(cache)
        return self._decode(latents, past), past.cache

    def _decode(self, latents: Latents, past: Past) -> Video:
        if latents.shape[-1] != LATENT_CHANNELS:
            raise UsageError(
                f"tiny decoder: cannot decode latents of {latents.shape[-1]} channels; "
                f"Wan2.1's have {LATENT_CHANNELS}"
            )
        net = all_gather_params(self)
        past.axis = frames_axis(*latents.shape[2:4])
        x = jax.nn.relu(
            net.conv_in(3 * jnp.tanh(latents.astype(net.conv_in.weight[...].dtype) / 3))
        )
        for stage in net.stages:
            x = stage(x, past)
        return 2 * jnp.clip(net.conv_out(jax.nn.relu(x)), 0, 1) - 1
