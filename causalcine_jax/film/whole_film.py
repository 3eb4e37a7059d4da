"""A whole film at once under one prompt: bidirectional Wan2.1, and how a conversion is checked by eye.

    noise [F frames] -> solver steps, every frame attends to every other -> x0 -> VAE, a few frames at a time -> 4F - 3 video frames

To the director it is a film of one chunk as long as the film. Nothing is committed, so there is no pool.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, sample
from causalcine_jax.errors import raise_faults
from causalcine_jax.film.engine import Clock, Made, RolloutEngine, noise_of
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.packed import transformer_pass
from causalcine_jax.parallel.processes import gather_to_host
from causalcine_jax.story_schema import TEMPORAL_STRIDE, nearest_multiples

NO_MEMORY = MemoryConfig("none", window_chunks=0, memory_frames=0)
DECODED = 3  # latent frames at a time: the VAE's activations of a whole film would not fit


def latent_frames(frames: int) -> int:
    """Latent frames of a film of `frames` video frames; `UsageError` naming the nearest legal lengths if it has none."""
    step = TEMPORAL_STRIDE
    legal = frames >= 1 and frames % step == 1
    raise_faults(
        "whole film",
        []
        if legal
        else [
            f"frames must be {step} n + 1, not {frames} (nearest: {nearest_multiples(max(frames, 1), step, 1)})"
        ],
    )
    return (frames - 1) // step + 1


def nearest_length(frames: float) -> int:
    """The legal number of video frames nearest to `frames`."""
    return TEMPORAL_STRIDE * max(0, round((frames - 1) / TEMPORAL_STRIDE)) + 1


@jax.jit(static_argnames="sampler")
def denoise_film(
    model: Transformer,
    noise: Float[Array, "b f h w ch"],
    text: TextContext,
    key: Array,
    *,
    sampler: SamplerConfig,
) -> Float[Array, "b f h w ch"]:
    """A film from noise to x0. With guidance the text holds 2b films, first all with their prompts, then all with the null text."""

    def velocity(x, t):
        shot = jnp.zeros((x.shape[0], 1), jnp.int32)
        times = jnp.full((x.shape[0], 1), t, jnp.float32)
        return transformer_pass(
            model, x, times, jnp.zeros(1, jnp.int32), text, shot, memory=NO_MEMORY, chunk_frames=x.shape[1]
        ).velocity  # fmt: skip

    return sample(velocity, noise, sampler, key)


class WholeFilmEngine(RolloutEngine):
    """A film maker whose one chunk is the film: the model's chunk_frames are the film's."""

    def chunk(self, context: TextContext, index: int) -> Made:
        clock = Clock()
        noise, key = noise_of(self._key, np.int32(index), self._noise_shape)
        x0 = denoise_film(self._model.transformer, noise, context, key, sampler=self._sampler)
        clock.lap("denoise", x0)
        first = x0.shape[1] % DECODED or DECODED
        starts = [0, *range(first, x0.shape[1], DECODED)]
        pieces = [
            gather_to_host(self._decode(part))[0] for part in jnp.split(x0, starts[1:], axis=1)
        ]
        clock.lap("decode", x0)
        nothing = np.full((self._model.transformer.config.num_layers, 0), -1, np.int32)
        return Made(np.concatenate(pieces), nothing, clock.seconds)

    @property
    def pool_bytes(self) -> int:
        return 0

    @property
    def pool_host_bytes(self) -> int:
        return 0

    def _empty_pool(self, frames: int, kv_dtype: str, near: tuple[int, int] | None) -> None:
        return None
