"""Wan2.1's causal 3-D VAE in any size: video to latents and back, whole or as a stream.

Encode: [B,T,H,W,3] in [-1,1] -> conv1 -> stages of residual blocks, all but the last with a
`Downsample` -> middle -> head -> conv1 -> mean and log-variance -> latents [B,F,h,w,z], normalised
by the config's mean and std. Decode is the mirror image. With Wan2.1's strides (4 in time, 8 in
space) T = 4F - 3: the first frame of a film is a latent frame of its own.

Every layer is causal, so a film can be coded piece by piece. `*_first` takes its beginning and
returns a cache. `*_next` takes the cache (donated: do not use it again) and the following frames.
The pieces equal the whole up to rounding. `encode` and `decode` hold the activations of the whole
film, so stream a long one.

Source: Wan2.1 `wan/modules/vae.py`, WanVAE_ (encode returns the mean, decode clips to [-1,1]).
"""

import itertools
from functools import partial

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError
from causalcine_jax.models.nn import Module
from causalcine_jax.models.vae.layers import (
    CausalConv3d,
    Downsample,
    Head,
    Past,
    PointConv,
    ResidualBlock,
    Upsample,
    middle,
)
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.parallel.mesh import frames_axis
from causalcine_jax.parallel.sharding import all_gather_params

Video = Float[Array, "b t h w 3"]
Latents = Float[Array, "b f y x z"]
Cache = tuple[Array, ...]


class Encoder(Module):
    """Video [B,T,H,W,3] -> mean and log-variance, concatenated [B,F,h,w,2z], before `VAE.conv1`."""

    def __init__(self, cfg: VAEConfig, *, key):
        keys = iter(jax.random.split(key, 64))
        dims = [cfg.dim * m for m in (1, *cfg.dim_mult)]
        self.patch_size = cfg.patch_size
        self.conv1 = CausalConv3d(cfg.pixel_channels, dims[0], key=next(keys))
        layers: list[ResidualBlock | Downsample] = []
        for stage, (d_in, d_out) in enumerate(itertools.pairwise(dims)):
            for block in range(cfg.num_res_blocks):
                layers.append(ResidualBlock(d_in if block == 0 else d_out, d_out, key=next(keys)))
            if stage < len(cfg.temperal_downsample):
                layers.append(
                    Downsample(d_out, temporal=cfg.temperal_downsample[stage], key=next(keys))
                )
        self.downsamples = nnx.List(layers)
        self.middle = middle(dims[-1], next(keys))
        self.head = Head(dims[-1], 2 * cfg.z_dim, key=next(keys))

    def __call__(self, x: Video, past: Past) -> Latents:
        x = self.conv1(patches(x, self.patch_size), past)
        for layer in (*self.downsamples, *self.middle, self.head):
            x = layer(x, past)
        return x


class Decoder(Module):
    """Latents [B,F,h,w,z] after the first point-wise layer -> video [B,T,H,W,3], not clipped."""

    def __init__(self, cfg: VAEConfig, *, key):
        keys = iter(jax.random.split(key, 64))
        dims = [cfg.dim * m for m in (cfg.dim_mult[-1], *reversed(cfg.dim_mult))]
        self.conv1 = CausalConv3d(cfg.z_dim, dims[0], key=next(keys))
        self.middle = middle(dims[0], next(keys))
        layers: list[ResidualBlock | Upsample] = []
        for stage, (d_in, d_out) in enumerate(itertools.pairwise(dims)):
            d_in = d_in // 2 if stage > 0 else d_in  # an Upsample halves the channels
            for block in range(cfg.num_res_blocks + 1):
                layers.append(ResidualBlock(d_in if block == 0 else d_out, d_out, key=next(keys)))
            if stage < len(cfg.temperal_downsample):
                layers.append(
                    Upsample(d_out, temporal=cfg.temperal_downsample[-1 - stage], key=next(keys))
                )
        self.upsamples = nnx.List(layers)
        self.patch_size = cfg.patch_size
        self.head = Head(dims[-1], cfg.pixel_channels, key=next(keys))

    def __call__(self, x: Latents, past: Past) -> Video:
        x = self.conv1(x, past)
        for layer in (*self.middle, *self.upsamples, self.head):
            x = layer(x, past)
        return pixels(x, self.patch_size)


def patches(video: Video, side: int) -> Float[Array, "b t y x c"]:
    """Squares of `side` pixels as channels, ordered (colour, column, row).

    The order is that of Wan2.2 (`wan/modules/vae2_2.py` patchify).
    """
    return (
        einops.rearrange(video, "b t (y q) (x r) c -> b t y x (c r q)", q=side, r=side)
        if side > 1
        else video
    )


def pixels(x: Float[Array, "b t y x c"], side: int) -> Video:
    """The inverse of `patches`."""
    return (
        einops.rearrange(x, "b t y x (c r q) -> b t (y q) (x r) c", q=side, r=side)
        if side > 1
        else x
    )


class VAE(Module):
    """Encoder, decoder and the point-wise layers between, in the dtype of the weights.

    New weights are an image autoencoder that repeats frames. Create them under `jax.jit`, because
    the initial values are many small programs.
    """

    def __init__(self, cfg: VAEConfig, *, key):
        keys = jax.random.split(key, 4)
        self.cfg = cfg
        self.encoder = Encoder(cfg, key=keys[0])
        self.conv1 = PointConv(2 * cfg.z_dim, 2 * cfg.z_dim, key=keys[1])
        self.conv2 = PointConv(cfg.z_dim, cfg.z_dim, key=keys[2])
        self.decoder = Decoder(cfg, key=keys[3])

    @jax.jit
    def encode(self, video: Video) -> Latents:
        """Video [B,T,H,W,3] in [-1,1], T = 4F - 3 -> normalised mean latents [B,F,h,w,z]."""
        return self.normalize(self.encode_moments(video)[0])

    @jax.jit
    def decode(self, latents: Latents) -> Video:
        """Normalised latents [B,F,h,w,z] -> video [B,4F-3,H,W,3], clipped to [-1,1]."""
        return jnp.clip(self.decode_raw(self.denormalize(latents)), -1, 1)

    @jax.jit
    def encode_first(self, video: Video) -> tuple[Latents, Cache]:
        """The film's first T = 4F - 3 frames -> latents [B,F,h,w,z], cache for `encode_next`."""
        past = Past()
        return self.normalize(self._encode(video, past)[0]), past.cache

    @partial(jax.jit, donate_argnums=1)
    def encode_next(self, cache: Cache, video: Video) -> tuple[Latents, Cache]:
        """The next T = 4F frames -> latents [B,F,h,w,z] and the new cache. `cache` is donated."""
        past = Past(cache)
        return self.normalize(self._encode(video, past)[0]), past.cache

    @jax.jit
    def decode_first(self, latents: Latents) -> tuple[Video, Cache]:
        """The film's first F latent frames -> 4F - 3 video frames, cache for `decode_next`."""
        past = Past()
        return jnp.clip(self._decode(self.denormalize(latents), past), -1, 1), past.cache

    @partial(jax.jit, donate_argnums=1)
    def decode_next(self, cache: Cache, latents: Latents) -> tuple[Video, Cache]:
        """The next F latent frames -> 4F frames of video and the new cache. `cache` is donated."""
        past = Past(cache)
        return jnp.clip(self._decode(self.denormalize(latents), past), -1, 1), past.cache

    def encode_moments(self, video: Video) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents [B,F,h,w,z], not normalised: for training."""
        return self._encode(video, Past())

    def decode_raw(self, latents: Latents) -> Video:
        """Latents that are not normalised -> video that is not clipped: for training."""
        return self._decode(latents, Past())

    def normalize(self, latents: Latents) -> Latents:
        mean, std = jnp.array(self.cfg.mean), jnp.array(self.cfg.std)
        return ((latents - mean) / std).astype(latents.dtype)

    def denormalize(self, latents: Latents) -> Latents:
        if latents.shape[-1] != self.cfg.z_dim:
            raise UsageError(
                f"vae: cannot decode latents of {latents.shape[-1]} channels; "
                f"this VAE's have {self.cfg.z_dim}"
            )
        mean, std = jnp.array(self.cfg.mean), jnp.array(self.cfg.std)
        return (latents * std + mean).astype(latents.dtype)

    def _encode(self, video: Video, past: Past) -> tuple[Latents, Latents]:
        _, frames, height, width, _ = video.shape
        time, space = self.cfg.temporal_stride, self.cfg.spatial_stride
        if frames % time != past.first or height % space or width % space:
            wanted = (
                f"{time}F - {time - 1} frames, the beginning of a film"
                if past.first
                else f"a multiple of {time} frames"
            )
            raise UsageError(
                f"vae: cannot encode {frames} frames of {width}x{height}; needs {wanted}, "
                f"and width and height divisible by {space}"
            )
        encoder, point = all_gather_params((self.encoder, self.conv1))
        past.axis = frames_axis(height // space, width // space)
        mean, log_variance = jnp.split(point(encoder(video, past)), 2, axis=-1)
        return mean, log_variance

    def _decode(self, latents: Latents, past: Past) -> Video:
        point, decoder = all_gather_params((self.conv2, self.decoder))
        past.axis = frames_axis(*latents.shape[2:4])
        return decoder(point(latents), past)
