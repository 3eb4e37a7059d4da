"""Makes a whole film at once under one prompt, as bidirectional Wan2.1; also checks a conversion.

    noise [F frames] -> solver steps, all frames attend to all -> x0
                     -> VAE, a few frames at a time -> 4F - 3 video frames

For the director this is a film of one chunk. Nothing is committed, so there is no pool.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, sample
from causalcine_jax.errors import raise_faults
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import (
    ChunkOutput,
    LapTimer,
    RolloutState,
    chunk_noise,
    decode_next,
    embed,
    nothing_retrieved,
)
from causalcine_jax.models import packed
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.story_schema import nearest_multiples

NO_MEMORY = MemoryConfig("none", window_chunks=0, memory_frames=0)
DECODED = 3  # latent frames at a time: the VAE's activations of a whole film would not fit


def latent_frames(frames: int) -> int:
    """Latent frames of `frames` video frames. `UsageError` with the nearest legal lengths."""
    step = TEMPORAL_STRIDE
    legal = frames >= 1 and frames % step == 1
    near = nearest_multiples(max(frames, 1), step, 1)
    fault = f"frames must be {step} n + 1, not {frames} (nearest: {near})"
    raise_faults("whole film", [] if legal else [fault])
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
    """A film from noise to x0.

    With guidance the text holds 2b films: first all prompts, then all null texts.
    """
    return sample(lambda x, t: packed.whole_film(model, x, t, text), noise, sampler, key)


def new_whole_film(model: Model, settings: FilmSettings) -> RolloutState:
    """The state before the film's one chunk. Raises as `state.new_state`."""
    latent_size(model, settings.height, settings.width)
    return RolloutState(None, None, 0, jax.random.key(settings.seed))


def roll_whole_film(
    model: Model, state: RolloutState, prompt: TextContext, settings: FilmSettings, *, latents=None
) -> tuple[RolloutState, ChunkOutput]:
    """The film as its one chunk, of model.chunk_frames frames. `latents` as of `roll_chunk`."""
    clock, transformer = LapTimer(), model.transformer
    if latents is None:
        noise, key = chunk_noise(model, state, settings)
        latents = denoise_film(transformer, noise, prompt, key, sampler=settings.sampler)
        clock.lap("denoise", latents)
    first = latents.shape[1] % DECODED or DECODED
    cache, pieces = None, []
    for part in jnp.split(latents, list(range(first, latents.shape[1], DECODED)), axis=1):
        video, cache = decode_next(model, cache, part)
        pieces.append(gather_to_host(video)[0])
    clock.lap("decode", latents)
    output = ChunkOutput(
        np.concatenate(pieces), latents, nothing_retrieved(transformer, 0), clock.seconds
    )
    return dataclasses.replace(state, vae_cache=cache, chunk=state.chunk + 1), output


WHOLE_FILM = RolloutFunctions(lambda *_: None, new_whole_film, embed, roll_whole_film)
