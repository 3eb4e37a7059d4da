"""The director: turns a story into a stream of chunks and takes new shots while they stream.

    director = Director("model folder", read_story("story.yaml"))
    for chunk in director:
        show(chunk.frames)

A shot's prompt is embedded when the shot begins and kept for its chunks. A new shot takes hold at the chunk after all shots that are
already queued. The stream ends when no shot is left; after `add_shot` it can be iterated again and goes on where it was.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.engine import Engine, RolloutEngine, histories, latent_size
from causalcine_jax.film.model_folder import Model, load_model
from causalcine_jax.film.pool import chunk_bytes, frames_within
from causalcine_jax.models.cache.kv_cache import pool_frames_for
from causalcine_jax.story import ResolvedShot, Shot, Story


@dataclass(frozen=True)
class Chunk:
    """A chunk of the film.

    frames     9 (the first chunk) or 12 video frames; 4 n, and 4 n - 3 in the first, for chunks of n latent frames
    index      place among the film's chunks, from 0
    shot       the shot it belongs to, on the chunk grid
    retrieved  per layer, the film's latent frames that memory brought back, newest first, -1 where there was none
    seconds    spent on denoise, commit and decode
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    index: int
    shot: ResolvedShot
    retrieved: Int[np.ndarray, "l k"]
    seconds: dict[str, float]

    @property
    def is_cut(self) -> bool:
        """A new shot begins here (the film's beginning is no cut)."""
        return self.index > 0 and self.index == self.shot.first_chunk


class Director:
    """An iterator over the chunks of one film. Another thread than the one that iterates may add shots."""

    def __init__(
        self,
        model: Model | str | Path | None,
        story: Story | str,
        *,
        seed: int | None = None,
        sampler: SamplerConfig | None = None,
        memory: MemoryConfig | None = None,
        pool_frames: int | None = None,
        pool_gb: float | None = None,
        kv_dtype: str = "same",
        pool_on: str = "device",
        embeddings: str | Path | None = None,
        start: Float[Array, "1 f h w z"] | None = None,
        engine: Callable[..., Engine] = RolloutEngine,
    ):
        """Checks every prompt and allocates the pool; nothing is computed before the first chunk is asked for.

        Args:
          model: the networks, or the model folder to load them from; None is the embedded one.
          story: a story, or only a global caption; its shots then come by `add_shot`.
          seed, sampler, memory: in place of the story's and the model's.
          embeddings: a file of prompt embeddings in place of the folder's text encoder, which then stays on disk.
          start: latents of the film's first chunks, which are then not made from noise; see `start.opening`.
          pool_frames: latent frames of history kept, in whole chunks; what is beyond goes, by memory.eviction. By default all that memory can
            still choose: with camr the whole story's, else the window and the sink.
          pool_gb: the pool's size in GB (10^9 bytes) instead: as many whole chunks as fit.
          kv_dtype: how the pool stores keys and values: "same" as the model's weights, or "int8" or "fp8".
          pool_on: where they lie: "device", or "host" for a history that outgrows the device. The film is the same.

        Raises:
          DataError: no such model folder, or a damaged one.
          UsageError: prompts that the model cannot read, or a pool too small for the receptive field or too large for the device.
        """
        if model is None or isinstance(model, str | Path):
            model = load_model(model, embeddings=embeddings)
        story = Story((), global_caption=story) if isinstance(story, str) else story
        if story.video.height is None:
            story = replace(story, video=replace(model.video, fps=story.video.fps))
        if not story.negative:
            story = replace(story, negative=model.negative)
        self.story = story if seed is None else replace(story, seed=seed)
        self.resolved = self.story.resolve(model.chunk_frames)
        self.model = model
        self.sampler = sampler or model.sampler
        self.memory = memory or model.memory
        self.pool_frames = self._pool_size(pool_frames, pool_gb, kv_dtype, engine)
        self.next_chunk = 0
        self._start = start
        self._lock = threading.Lock()
        self._prompt, self._context = None, None
        self._check_prompts(self.resolved.shots, self.story)
        self.engine = engine(
            model,
            height=self.story.video.height,
            width=self.story.video.width,
            seed=self.story.seed,
            sampler=self.sampler,
            memory=self.memory,
            pool_frames=self.pool_frames,
            kv_dtype=kv_dtype,
            pool_on=pool_on,
            negative=self.story.negative,
        )

    def add_shot(
        self,
        caption: str,
        *,
        chunks: int | None = None,
        seconds: float | None = None,
        id: str | None = None,
    ) -> ResolvedShot:
        """Queues a shot after all others; returns its place in the film. Give chunks or seconds.

        Raises:
          UsageError: the shot is at fault (all faults are listed), or a film that may not evict would outgrow its pool.
        """
        with self._lock:
            story = replace(
                self.story, shots=(*self.story.shots, Shot(caption, seconds, chunks, id))
            )
            resolved = story.resolve(self.model.chunk_frames)
            self._check_prompts(resolved.shots[-1:], story)
            pool_frames_for(resolved.chunks, self.memory, self.model.chunk_frames, self.pool_frames)
            self.story, self.resolved = story, resolved
            return resolved.shots[-1]

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with self._lock:
            resolved = self.resolved
        index = self.next_chunk
        if index >= resolved.chunks:
            raise StopIteration
        shot = next(shot for shot in resolved.shots if index < shot.end_chunk)
        if shot.prompt != self._prompt:
            self._prompt, self._context = shot.prompt, self.engine.embed(shot.prompt)
        first, end = index * self.model.chunk_frames, (index + 1) * self.model.chunk_frames
        if self._start is not None and end <= self._start.shape[1]:
            made = self.engine.given(self._context, index, self._start[:, first:end])
        else:
            made = self.engine.chunk(self._context, index)
        self.next_chunk += 1
        return Chunk(made.frames, index, shot, made.retrieved, made.seconds)

    def _check_prompts(self, shots: Iterable[ResolvedShot], story: Story) -> None:
        self.model.check_prompts(
            [(f"shot '{shot.id}'", shot.prompt) for shot in shots] + [("negative", story.negative)],
            story,
        )

    def _pool_size(
        self, asked: int | None, gb: float | None, kv_dtype: str, engine: Callable[..., Engine]
    ) -> int:
        if gb is not None:
            if asked is not None:
                raise UsageError(
                    f"pool_frames={asked} and pool_gb={gb:g} both say how large the pool is: give one of them"
                )
            size = latent_size(self.model, self.story.video.height, self.story.video.width)
            asked = frames_within(
                gb,
                chunk_bytes(self.model, histories(self.sampler), size, kv_dtype),
                self.memory,
                self.model.chunk_frames,
            )
        smallest = self.memory.smallest_pool(self.model.chunk_frames)
        if asked is None and not self.memory.reaches_all and self.memory.route_clean:
            return smallest  # what has left the window and the sink is never seen again
        frames = pool_frames_for(
            self.resolved.chunks or None, self.memory, self.model.chunk_frames, asked
        )
        # Shots that are added later may evict, so the pool is never smaller than what eviction needs.
        frames = frames if asked else max(frames, smallest)
        if asked or not self.memory.route_clean or not hasattr(engine, "shared_pool"):
            return frames  # without route_clean, every chunk would attend to the empty slots
        return engine.shared_pool(self.model, self.sampler, self.story.video, frames, kv_dtype)
