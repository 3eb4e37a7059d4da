"""A film to measure: generation's engine, with two films that take turns in one cache.

Memory may suffice for one cache only.
"""

import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks.settings import CHUNK_FRAMES, Settings, random_like
from causalcine_jax.config import MemoryConfig
from causalcine_jax.film.engine import Clock, RolloutEngine
from causalcine_jax.film.model_folder import Model
from causalcine_jax.models.cache.kv_cache import Near
from causalcine_jax.models.dit import TextContext

PROMPT = "Mia waves."
TINY_DECODER = "tiny_decoder.safetensors"  # in a model folder of random weights


@dataclass(frozen=True)
class FilmPosition:
    """A film's next chunk, and copies of the cache's arrays that decide what a chunk costs.

    They are: which frame each slot holds, what routing reads of them, and, with history in host
    memory, the frames kept near. Routing copies any other frame from the host. Keys and values
    are too large to keep twice, so both films use those of the film that wrote last.
    """

    chunk: int
    time: Int[Array, " slots"]
    usage: Float[Array, " slots"]
    descriptors: Float[Array, "l b f h d"]
    near: Near | None


class MeasuredFilm(RolloutEngine):
    """A film that is timed chunk by chunk.

    next_chunk  the chunk that `measured` makes next
    waits       waits for each move before the next begins, as `RolloutEngine` does; otherwise
                all are enqueued at once
    copied      with history in host memory: frames copied to the device per layer, in the last
                step and in the commit, for the chunk measured last
    """

    next_chunk, waits = 0, True
    copied: dict[str, float] | None = None

    def measured(self, context: TextContext) -> dict[str, float]:
        """Makes the next chunk, whose frames are then on the host.

        Returns the seconds of its moves, if it waits for them, and of all by the wall clock.
        """
        near = self._near_time
        start = time.perf_counter()
        made = self.chunk(context, self.next_chunk)
        together = time.perf_counter() - start
        self.next_chunk += 1
        if near is not None:
            committed = self._near_time[..., self._pool.near.chunks * self._pool.chunk_frames :]
            self.copied = {
                "last_step": frames_missing(made.retrieved[:, None], near[:, :1]),
                "commit": frames_missing(committed, near),
            }
        return {**made.seconds, "together": together}

    @property
    def _near_time(self) -> Int[np.ndarray, "l b n"] | None:
        return None if self._pool.near is None else np.array(self._pool.near.time)

    @property
    def position(self) -> FilmPosition:
        pool = self._pool
        return FilmPosition(
            self.next_chunk,
            *jax.block_until_ready(
                jax.tree.map(jnp.copy, (pool.time, pool.usage, pool.descriptors, pool.near))
            ),
        )

    def go_to(self, position: FilmPosition) -> None:
        """Continues the film that was at `position`.

        Once only: the position's arrays are then overwritten, because memory may not suffice
        for more copies.
        """
        names = ("time", "usage", "descriptors", "near")
        kept = {name: getattr(position, name) for name in names}
        self._pool, self.next_chunk = replace(self._pool, **kept), position.chunk

    def forget(self) -> None:
        """Empties the cache."""
        pool = self._pool
        near = pool.near and replace(pool.near, time=pool.near.time.at[:].set(-1))
        self._pool = replace(
            pool, time=pool.time.at[:].set(-1), usage=pool.usage.at[:].set(0), near=near
        )

    def _clock(self) -> Clock:
        return Clock() if self.waits else _NoLaps()


def frames_missing(wanted: Int[np.ndarray, "l b k"], near: Int[np.ndarray, "l b n"]) -> float:
    """Returns how many of the wanted frames (-1: none) are not near, per layer and history."""
    there = (wanted[..., None] == near[:, :, None]).any(axis=-1)
    return float(((wanted >= 0) & ~there).sum(axis=-1).mean())


class _NoLaps(Clock):
    def lap(self, name: str, array: Array) -> None:
        pass


def new_film(
    model: Model, settings: Settings, policy: MemoryConfig = MemoryConfig()
) -> MeasuredFilm:
    """Returns a film without chunks, its cache allocated."""
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


def fill(
    film: MeasuredFilm, context: TextContext, settings: Settings, policy: MemoryConfig, number: int
) -> None:
    """Leaves the cache as a film does before its chunk `number`.

    Commits only the chunks that it still holds then, all different: the sink and the newest.
    """
    film.forget()
    shape = (1, CHUNK_FRAMES, *settings.latent_size, settings.transformer.in_dim)
    sink = -(-policy.memory_frames // CHUNK_FRAMES)
    newest = settings.pool_frames // CHUNK_FRAMES - sink
    for chunk in (*range(min(sink, number)), *range(max(sink, number - newest), number)):
        film.given(context, chunk, random_like(shape, seed=chunk))
    film.next_chunk = number
