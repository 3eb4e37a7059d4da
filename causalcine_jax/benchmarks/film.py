"""A film to measure: the engine that generation uses, and two films that take turns in one pool, for which alone there may be memory."""

import time
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from causalcine_jax.benchmarks.settings import CHUNK_FRAMES, Settings, random_like
from causalcine_jax.config import MemoryConfig
from causalcine_jax.generation.engine import Clock, RolloutEngine
from causalcine_jax.generation.model_folder import Model
from causalcine_jax.models.dit import TextContext

PROMPT = "Mia waves."
TINY_DECODER = "tiny_decoder.safetensors"  # in a model folder of random weights


@dataclass(frozen=True)
class Place:
    """Where a film is: its next chunk, and which frames lie where in its pool. What those look like makes no chunk dearer."""

    chunk: int
    time: Int[np.ndarray, " slots"]
    usage: Float[np.ndarray, " slots"]
    near: Int[np.ndarray, "l b f"] | None


class MeasuredFilm(RolloutEngine):
    """A film that is timed chunk by chunk.

    next_chunk  which one `measured` makes
    waits       for each move before it begins the next, as `RolloutEngine` does; else all are enqueued at once
    """

    next_chunk, waits = 0, True

    def measured(self, context: TextContext) -> dict[str, float]:
        """Makes the next chunk: seconds of its moves, if it waits for them, and of all by the clock on the wall. Its frames are then on the host."""
        start = time.perf_counter()
        seconds = self.chunk(context, self.next_chunk).seconds
        self.next_chunk += 1
        return {**seconds, "together": time.perf_counter() - start}

    @property
    def place(self) -> Place:
        pool = self._pool
        near = None if pool.near is None else np.array(pool.near.time)
        return Place(self.next_chunk, np.array(pool.time), np.array(pool.usage), near)

    def go_to(self, place: Place) -> None:
        """Goes on as the film that was at that place."""
        pool = self._pool
        pool = replace(pool, time=pool.time.at[:].set(place.time), usage=pool.usage.at[:].set(place.usage))
        if pool.near is not None:
            pool = replace(pool, near=replace(pool.near, time=pool.near.time.at[:].set(place.near)))
        self._pool, self.next_chunk = jax.block_until_ready(pool), place.chunk

    def _clock(self) -> Clock:
        return Clock() if self.waits else _NoLaps()


class _NoLaps(Clock):
    def lap(self, name: str, array: Array) -> None:
        pass


def new_film(model: Model, settings: Settings, policy: MemoryConfig = MemoryConfig()) -> MeasuredFilm:
    """A film without chunks, its pool allocated."""
    return MeasuredFilm(
        model,
        height=settings.height,
        width=settings.width,
        seed=0,
        sampler=settings.rollout_sampler,
        memory=policy,
        pool_frames=settings.pool_frames,
        kv_dtype=settings.kv_dtype,
        pool_on=settings.pool_on,
    )


def fill(film: MeasuredFilm, context: TextContext, settings: Settings, policy: MemoryConfig, number: int) -> None:
    """Leaves the pool as a film does before its chunk `number`. Only what it still holds then is committed: the sink and the newest chunks."""
    latents = random_like((1, CHUNK_FRAMES, *settings.latent_size, settings.transformer.in_dim))
    sink = -(-policy.memory_frames // CHUNK_FRAMES)
    newest = settings.pool_frames // CHUNK_FRAMES - sink
    for chunk in (*range(min(sink, number)), *range(max(sink, number - newest), number)):
        film.given(context, chunk, latents)
    film.next_chunk = number
