"""The layers of the causal 3-D VAE: convolutions that look back in time and never forward.

A causal layer needs the last frames before its input. `Past` carries them through the layers in the
order they run. It prepends the two stored frames to each input, and stores the two newest. At the
start of a film the stored frames are zeros. What it has collected at the end is the cache of the
next call: a tuple of arrays.

The names of modules are regular, so Wan2.1's state-dict keys follow by substitution
(convert/tables.py):
    ResidualBlock   norm1, conv1, norm2, conv2, shortcut
                    =  residual.0, residual.2, residual.3, residual.6, shortcut
    Downsample      conv, time_conv       =  resample.1, time_conv (Upsample alike)
    AttentionBlock  norm, to_qkv, proj                     =  the same
    Head            norm, conv                             =  head.0, head.2
Parameters are `weight`, `bias` and `gamma`. Weights are channels-last: [kt,kh,kw,in,out] and
[kh,kw,in,out]; gamma is [channels].

A layer computes in the dtype of its weights. Statistics of norms and the softmax are float32 (the
reference runs all in float32).
Source: Wan2.1 `wan/modules/vae.py`.
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.models.cpu.norm import norm_silu, normalizes
from causalcine_jax.models.nn import Module, Param
from causalcine_jax.models.vae.convolution import (
    causal_conv3d,
    conv_init,
    doubling_conv2d,
    halving_conv2d,
)
from causalcine_jax.parallel.mesh import shard_frames

Frames = Float[Array, "b t h w c"]
SameSize = Float[Array, "b t h w o"]


class Past:
    """The frames before the current ones.

    `Past()` begins a film; `Past(cache)` continues where another `Past` ended.

    axis  the frames' axis that is sharded over a mesh. Every layer re-asserts it, or the compiler
          may compute all frames on all devices
    """

    def __init__(self, cache: tuple[Array, ...] = ()):
        self.first = not cache
        self._old = iter(cache)
        self._new: list[Array] = []
        self.axis: int | None = None

    def extend(self, x: Frames, frames: int = 2) -> Float[Array, "b t+{frames} h w c"]:
        """Prepends to x the `frames` frames before it; keeps the newest for the next call."""
        old = (
            jnp.zeros_like(x, shape=(x.shape[0], frames, *x.shape[2:]))
            if self.first
            else next(self._old).astype(x.dtype)
        )
        x = shard_frames(jnp.concatenate([old, x], axis=1), self.axis)
        self._new.append(x[:, -frames:])
        return x

    @property
    def cache(self) -> tuple[Array, ...]:
        """The newest frames of every causal layer, in the order the layers ran."""
        return tuple(self._new)


class CausalConv3d(Module):
    """3x3x3 convolution over a frame and the two before; initially ignores those two (images)."""

    def __init__(self, d_in: int, d_out: int, *, key, zero: bool = False):
        tap = jnp.zeros((3, 3, d_in, d_out)) if zero else conv_init(key, (3, 3, d_in, d_out))
        self.weight = Param(jnp.zeros((3, 3, 3, d_in, d_out)).at[2].set(tap))
        self.bias = Param(jnp.zeros((d_out,)))

    def __call__(self, x: Frames, past: Past) -> SameSize:
        weight = self.weight[...]
        x = x.astype(weight.dtype)
        extended = past.extend(x)
        return causal_conv3d(extended, weight, self.bias[...], from_zero=past.first)


class PointConv(Module):
    """1x1x1 convolution: a matrix for every pixel."""

    def __init__(self, d_in: int, d_out: int, *, key, spatial_only: bool = False):
        shape = (1, 1, d_in, d_out) if spatial_only else (1, 1, 1, d_in, d_out)
        self.weight = Param(conv_init(key, shape))
        self.bias = Param(jnp.zeros((d_out,)))

    def __call__(self, x: Frames) -> SameSize:
        weight = self.weight[...]
        weight = weight.reshape(weight.shape[-2:])
        return jnp.einsum("bthwi,io->bthwo", x.astype(weight.dtype), weight) + self.bias[...]


class FrameConv(Module):
    """Weights of a 3x3 convolution of every frame by itself."""

    def __init__(self, d_in: int, d_out: int, *, key):
        self.weight = Param(conv_init(key, (3, 3, d_in, d_out)))
        self.bias = Param(jnp.zeros((d_out,)))


class TimeConv(Module):
    """3x1x1 convolution along time: t frames become (t - 3) // stride + 1.

    Initially a copy of the newest frame.

    Written as three matrix products, because the input gradient of a strided 3-D convolution is
    very slow on GPUs.
    """

    def __init__(self, d_in: int, d_out: int, *, stride: int = 1):
        copy = jnp.tile(jnp.eye(d_in), (1, d_out // d_in))
        self.weight = Param(jnp.zeros((3, 1, 1, d_in, d_out)).at[2, 0, 0].set(copy))
        self.bias = Param(jnp.zeros((d_out,)))
        self.stride = stride

    def __call__(self, x: Frames) -> Float[Array, "b (t-3)//{self.stride}+1 h w o"]:
        weight = self.weight[...]
        x = x.astype(weight.dtype)
        last = x.shape[1] - 2
        taps = (
            jnp.einsum("bthwi,io->bthwo", x[:, k : k + last : self.stride], weight[k, 0, 0])
            for k in range(3)
        )
        return sum(taps) + self.bias[...]


class ChannelNorm(Module):
    """x / rms(x) * gamma over the channels (Wan2.1 RMS_norm), statistics in float32."""

    def __init__(self, dim: int):
        self.gamma = Param(jnp.ones((dim,)))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        x32 = x.astype(jnp.float32)
        # The reference divides by max(|x|, 1e-12) and multiplies by sqrt(channels). Clamp the
        # square, because the square root of 0 has no gradient.
        square = jnp.maximum(jnp.sum(jnp.square(x32), axis=-1, keepdims=True), 1e-24)
        normed = x32 * (x.shape[-1] ** 0.5 * jax.lax.rsqrt(square))
        return (normed * self.gamma[...]).astype(x.dtype)

    def silu(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """SiLU of the norm."""
        if x.dtype == jnp.float32 and normalizes(self.gamma[...].dtype, x.shape[-1]):
            return norm_silu(x, self.gamma[...])
        return jax.nn.silu(self(x))


class ResidualBlock(Module):
    """Two causal convolutions, each after norm and SiLU, beside a shortcut.

    The second starts at zero, so the block is initially a copy.
    """

    def __init__(self, d_in: int, d_out: int, *, key):
        keys = jax.random.split(key, 2)
        self.norm1 = ChannelNorm(d_in)
        self.conv1 = CausalConv3d(d_in, d_out, key=keys[0])
        self.norm2 = ChannelNorm(d_out)
        self.conv2 = CausalConv3d(d_out, d_out, key=key, zero=True)
        self.shortcut = PointConv(d_in, d_out, key=keys[1]) if d_in != d_out else None

    def __call__(self, x: Frames, past: Past) -> SameSize:
        y = self.conv1(self.norm1.silu(x), past)
        y = self.conv2(self.norm2.silu(y), past)
        return y + (x if self.shortcut is None else self.shortcut(x))


class AttentionBlock(Module):
    """Every pixel of a frame attends to all pixels of the same frame; one head."""

    def __init__(self, dim: int, *, key):
        keys = jax.random.split(key, 2)
        self.norm = ChannelNorm(dim)
        self.to_qkv = PointConv(dim, 3 * dim, key=keys[0], spatial_only=True)
        self.proj = PointConv(dim, dim, key=keys[1], spatial_only=True)
        self.proj.weight[...] = jnp.zeros_like(self.proj.weight[...])

    def __call__(self, x: Frames, past: Past) -> Frames:
        qkv = self.to_qkv(self.norm(x))
        q, k, v = jnp.split(einops.rearrange(qkv, "b t h w c -> b t (h w) c"), 3, axis=-1)
        scores = (
            jnp.einsum("btqc,btkc->btqk", q, k, preferred_element_type=jnp.float32)
            * x.shape[-1] ** -0.5
        )
        y = jnp.einsum("btqk,btkc->btqc", jax.nn.softmax(scores).astype(v.dtype), v)
        return x + self.proj(einops.rearrange(y, "b t (h w) c -> b t h w c", h=x.shape[2]))


class Downsample(Module):
    """Halves height and width and, if `temporal`, the number of frames after the film's first."""

    def __init__(self, dim: int, *, temporal: bool, key):
        self.conv = FrameConv(dim, dim, key=key)
        self.time_conv = TimeConv(dim, dim, stride=2) if temporal else None

    def __call__(self, x: Frames, past: Past) -> Float[Array, "b u h//2 w//2 c"]:
        x = halving_conv2d(x, self.conv.weight[...], self.conv.bias[...])
        if self.time_conv is None:
            return x
        extended = past.extend(x, frames=1)
        if not past.first:
            return self.time_conv(extended)
        return jnp.concatenate([x[:, :1], self.time_conv(x)], axis=1)


class Upsample(Module):
    """Doubles height and width and, if `temporal`, the frames after the first; halves channels.

    The film's second frame does not see the first in `time_conv`, because Wan2.1 was trained so.
    """

    def __init__(self, dim: int, *, temporal: bool, key):
        self.conv = FrameConv(dim, dim // 2, key=key)
        self.time_conv = TimeConv(dim, 2 * dim) if temporal else None

    def __call__(self, x: Frames, past: Past) -> Float[Array, "b u 2*h 2*w c//2"]:
        if self.time_conv is not None:
            x = (
                jnp.concatenate([x[:, :1], self.double(x[:, 1:], past)], axis=1)
                if past.first
                else self.double(x, past)
            )
        return doubling_conv2d(x, self.conv.weight[...], self.conv.bias[...])

    def double(self, x: Frames, past: Past) -> Float[Array, "b 2*t h w c"]:
        """Two frames per frame: the first half of the channels is the earlier frame."""
        assert self.time_conv is not None
        return einops.rearrange(
            self.time_conv(past.extend(x)), "b t h w (two c) -> b (t two) h w c", two=2
        )


class Head(Module):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, d_in: int, d_out: int, *, key):
        self.norm = ChannelNorm(d_in)
        self.conv = CausalConv3d(d_in, d_out, key=key)

    def __call__(self, x: Frames, past: Past) -> SameSize:
        return self.conv(self.norm.silu(x), past)


def middle(dim: int, key) -> nnx.List:
    """The coarsest stage of encoder and decoder: residual block, attention, residual block."""
    keys = jax.random.split(key, 3)
    return nnx.List(
        [
            ResidualBlock(dim, dim, key=keys[0]),
            AttentionBlock(dim, key=keys[1]),
            ResidualBlock(dim, dim, key=keys[2]),
        ]
    )
