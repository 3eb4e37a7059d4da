"""TransNetV2's convolutions: in space, then in time at four rates side by side."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.models.nn import Module, Param, fan_in_uniform
from causalcine_jax.models.vae.convolution import conv2d, conv_init

DILATIONS = (1, 2, 4, 8)  # frames between a time convolution's taps
TAPS = 3
EPS = 1e-3

Frames = Float[Array, "b t h w i"]
SameSize = Float[Array, "b t h w o"]


class DilatedConv(Module):
    """Weights of a 3x3 convolution in space, and one of three taps in time after it."""

    def __init__(self, d_in: int, d_out: int, *, key):
        keys = jax.random.split(key)
        self.space = Param(conv_init(keys[0], (3, 3, d_in, 2 * d_out)))
        self.time = Param(fan_in_uniform(keys[1], (TAPS, 2 * d_out, d_out), TAPS * 2 * d_out))


class BatchNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the means of training."""

    def __init__(self, dim: int):
        self.weight = Param(jnp.ones((dim,)))
        self.bias = Param(jnp.zeros((dim,)))
        self.mean = Param(jnp.zeros((dim,)))
        self.variance = Param(jnp.ones((dim,)))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        scale = self.weight[...] * jax.lax.rsqrt(self.variance[...] + EPS)
        return (x - self.mean[...]) * scale + self.bias[...]


class DilatedBlock(Module):
    """Four branches side by side, one per dilation, and a norm of their channels."""

    def __init__(self, d_in: int, d_out: int, *, key):
        keys = jax.random.split(key, len(DILATIONS))
        self.branches = nnx.List([DilatedConv(d_in, d_out // len(DILATIONS), key=k) for k in keys])
        self.norm = BatchNorm(d_out)

    def __call__(self, x: Frames) -> SameSize:
        # One convolution of all branches' channels reads x once.
        space = jnp.concatenate([branch.space[...] for branch in self.branches], axis=-1)
        parts = jnp.split(conv2d(x, space, None), len(DILATIONS), axis=-1)
        y = [
            _time_conv(part, branch.time[...], dilation)
            for part, branch, dilation in zip(parts, self.branches, DILATIONS)
        ]
        return self.norm(jnp.concatenate(y, axis=-1))


class DilatedStage(Module):
    """Two blocks beside a shortcut around the second; then means of 2x2 pixels."""

    def __init__(self, d_in: int, d_out: int, *, key):
        keys = jax.random.split(key)
        self.blocks = nnx.List(
            [DilatedBlock(d_in, d_out, key=keys[0]), DilatedBlock(d_out, d_out, key=keys[1])]
        )

    def __call__(self, x: Frames) -> Float[Array, "b t h//2 w//2 o"]:
        first, second = self.blocks
        x = jax.nn.relu(first(x))
        return _halve(jax.nn.relu(second(x)) + x)


def _time_conv(x: Frames, weight: Float[Array, "3 i o"], dilation: int) -> SameSize:
    """Three taps, `dilation` frames apart, with zeros beyond the ends; a frame stays in place."""
    before, here, after = (jnp.einsum("bthwi,io->bthwo", x, tap) for tap in weight)
    ends = ((0, 0), (dilation, dilation), *((0, 0),) * 3)
    before, after = jnp.pad(before, ends), jnp.pad(after, ends)
    return here + before[:, : x.shape[1]] + after[:, 2 * dilation :]


def _halve(x: Frames) -> Float[Array, "b t h//2 w//2 i"]:
    """Means of 2x2 pixels; an odd row or column is left out."""
    height, width = (side // 2 * 2 for side in x.shape[2:4])
    x = x[:, :, :height, :width]
    return x.reshape(*x.shape[:2], height // 2, 2, width // 2, 2, -1).mean(axis=(3, 5))
