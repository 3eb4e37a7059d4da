"""Video frames on their way into a VAE and out of it, and a film encoded piece by piece."""

from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.models.vae.wan_vae import VAE, Cache, Latents
from causalcine_jax.utils.arrays import AnyArray

Frames = TypeVar("Frames", jax.Array, np.ndarray)


def to_model_range(frames: Frames) -> Frames:
    """uint8 frames as the VAE takes them: float32 in [-1, 1].

    Computed where the frames are. XLA multiplies by 1 / 127.5, so numpy's last bit may differ.
    """
    return frames.astype(np.float32) / 127.5 - 1


@jax.jit
def to_uint8(
    video: Float[Array, "b t height width 3"],
) -> UInt8[Array, "b t height width 3"]:
    """Frames as they are shown, of decoded video in [-1, 1]."""
    return jnp.clip(jnp.round((video.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


def encode_pieces(
    vae: VAE, pieces: Iterable[Float[AnyArray, "b t height width 3"]]
) -> list[Latents]:
    """Latents of each of a film's pieces; the activations of only one are held at a time.

    The first piece has 4F - 3 frames, the later ones 4F. Equal lengths compile once.
    """
    latents: list[Latents] = []
    cache: Cache | None = None
    for video in pieces:
        piece, cache = vae.encode_first(video) if cache is None else vae.encode_next(cache, video)
        latents.append(piece)
    return latents
