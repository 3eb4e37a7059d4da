"""A critic of pictures: whether each part of a frame is a true film's or a VAE's.

    frame, and its change from the frame before -> three halvings -> a logit for every 8x8 pixels

A logit sees 34x34 pixels, because the critic is there for outlines and texture; the other losses
say what is in the picture. The change lets it see motion. Source of the idea: PatchGAN
(arXiv 1611.07004), as in the autoencoders of latent diffusion (2112.10752).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.models.nn import Module
from causalcine_jax.models.vae.convolution import conv2d, halving_conv2d
from causalcine_jax.models.vae.layers import ChannelNorm, FrameConv
from causalcine_jax.models.vae.wan_vae import patches

PATCH = 2  # pixels of a side that become channels, as in the VAE
STRIDE = 4 * PATCH  # pixels of a side for one logit; height and width are multiples of it


class PatchCritic(Module):
    """Logits of video in [-1,1]; `dim` channels at half size, and twice as many later."""

    def __init__(self, dim: int = 32, *, key):
        keys = jax.random.split(key, 4)
        self.first = FrameConv(6 * PATCH**2, dim, key=keys[0])
        self.second = FrameConv(dim, 2 * dim, key=keys[1])
        self.third = FrameConv(2 * dim, 2 * dim, key=keys[2])
        self.logit = FrameConv(2 * dim, 1, key=keys[3])
        # A small last layer, so that an untrained critic is near chance on any input.
        self.logit.weight[...] *= 0.02
        self.norms = nnx.List([ChannelNorm(2 * dim) for _ in range(2)])

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t h//8 w//8"]:
        """The logits that parts of frames are a true film's, float32. The first has no change."""
        change = jnp.diff(video, axis=1, prepend=video[:, :1])
        x = jnp.concatenate([patches(video, PATCH), patches(change, PATCH)], axis=-1)
        x = jax.nn.silu(conv2d(x, self.first.weight[...], self.first.bias[...]))
        for layer, norm in zip((self.second, self.third), self.norms, strict=True):
            x = norm.silu(halving_conv2d(x, layer.weight[...], layer.bias[...]))
        return conv2d(x, self.logit.weight[...], self.logit.bias[...])[..., 0].astype(jnp.float32)
