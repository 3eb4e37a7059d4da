"""A film to measure: generation's rollout, with two films that take turns in one pool.

Memory may suffice for one pool only.
"""

import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks.settings import CHUNK_FRAMES, Settings, random_like
from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import ChunkOutput, embed, new_state, rewind, roll_chunk
from causalcine_jax.models.cache.kv_cache import DeviceCopies, KVCache
from causalcine_jax.models.dit import TextContext

PROMPT = "Mia waves."
TINY_DECODER = "tiny_decoder.safetensors"  # in a model folder of random weights


@dataclass(frozen=True)
class FilmPosition:
    """A film's next chunk, and copies of the cache's arrays that decide what a chunk costs.

    They are: which chunk each slot holds (`held`), what routing reads of them, and, with history in
    host memory, the copied frames. Routing copies any other frame from the host. Keys and
    values are too large to keep twice, so both films use those of the film that wrote last.
    """

    chunk: int
    held: Int[Array, " slots"]
    usage: Float[Array, " slots"]
    descriptors: Float[Array, "l b f g h d"]
    copies: DeviceCopies | None


class MeasuredFilm:
    """A film that is timed chunk by chunk.

    state   where the film is; `measured` makes its next chunk
    waits   waits for each move before the next begins, as a director does; otherwise all are
            enqueued at once
    copied  with a pool in host memory: frames copied to the device per layer for the chunk measured
            last, in the last step and in the commit
    """

    waits = True
    copied: dict[str, float] | None = None

    def __init__(self, model: Model, settings: FilmSettings):
        self.model, self.settings = model, settings
        self.state = new_state(model, settings)

    @property
    def pool(self) -> KVCache:
        """The history. Only whole films have none, and this is not one."""
        assert self.state.cache is not None
        return self.state.cache

    def embed(self, prompt: str) -> TextContext:
        return embed(self.model, prompt, self.settings)

    def chunk(self, context: TextContext, latents: Array | None = None) -> ChunkOutput:
        """The next chunk, from noise or of these latents."""
        self.state, output = roll_chunk(
            self.model, self.state, context, self.settings, latents=latents, wait=self.waits
        )
        return output

    def measured(self, context: TextContext) -> dict[str, float]:
        """Makes the next chunk, whose frames are then on the host.

        Returns the seconds of its moves, if it waits for them, and of all by the wall clock.
        """
        before = self._near_frames
        start = time.perf_counter()
        made = self.chunk(context)
        together = time.perf_counter() - start
        if before is not None and self.pool.copies is not None:
            copies, newest = np.array(self.pool.copies.frame), self.pool.copies.chunks
            committed = copies[..., newest * self.pool.chunk_frames :]
            self.copied = {
                "last_step": frames_missing(made.retrieved[:, None], before[:, :1]),
                "commit": frames_missing(committed, before),
            }
        return {**made.seconds, "together": together}

    @property
    def _near_frames(self) -> Int[np.ndarray, "l b n"] | None:
        copies = self.pool.copies
        return None if copies is None else np.array(copies.frame)

    @property
    def position(self) -> FilmPosition:
        pool = self.pool
        parts = (pool.chunk, pool.usage, pool.descriptors, pool.copies)
        return FilmPosition(self.state.chunk, *jax.block_until_ready(jax.tree.map(jnp.copy, parts)))

    def go_to(self, position: FilmPosition) -> None:
        """Continues the film that was at `position`.

        Once only: the position's arrays are then overwritten, because memory may not suffice for
        more copies.
        """
        kept = {name: getattr(position, name) for name in ("usage", "descriptors", "copies")}
        cache = replace(self.pool, chunk=position.held, **kept)
        self.state = replace(self.state, cache=cache, chunk=position.chunk)

    def forget(self) -> None:
        """Empties the pool."""
        self.state = rewind(self.state, 0, self.state.vae_cache)


def frames_missing(wanted: Int[np.ndarray, "l b k"], copied: Int[np.ndarray, "l b n"]) -> float:
    """Returns how many of the wanted frames (-1: none) are not copied, per layer and history."""
    there = (wanted[..., None] == copied[:, :, None]).any(axis=-1)
    return float(((wanted >= 0) & ~there).sum(axis=-1).mean())


def new_film(
    model: Model, settings: Settings, policy: MemoryConfig = MemoryConfig()
) -> MeasuredFilm:
    """A film without chunks, its pool allocated."""
    pool = PoolConfig(settings.pool_frames, kv_dtype=settings.kv_dtype, on=settings.pool_on)
    recorded_settings = FilmSettings(settings.rollout_sampler, policy, pool, *settings.frame_size)
    return MeasuredFilm(model, recorded_settings)


def fill(
    film: MeasuredFilm, context: TextContext, settings: Settings, policy: MemoryConfig, number: int
) -> None:
    """Leaves the cache as a film does before its chunk `number`.

    Commits only the chunks that it still holds then, all different: the sink and the newest.
    """
    film.forget()
    shape = (1, CHUNK_FRAMES, *settings.latent_size, settings.transformer.in_dim)
    sink = policy.protected_chunks(CHUNK_FRAMES)
    newest = settings.pool_frames // CHUNK_FRAMES - sink
    for chunk in (*range(min(sink, number)), *range(max(sink, number - newest), number)):
        film.state = replace(film.state, chunk=chunk)
        film.chunk(context, random_like(shape, seed=chunk))
    film.state = replace(film.state, chunk=number)
