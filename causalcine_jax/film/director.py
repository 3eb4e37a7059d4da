"""The director: turns a story into a stream of chunks and takes new shots while they stream.

    director = Director("model folder", read_story("story.yaml"))
    for chunk in director:
        show(chunk.frames)

A shot's prompt is embedded once, when the shot begins. A new shot begins after all queued shots.
The stream ends when no shot is left; after `add_shot` it can be iterated again. `retake` takes a
film back to the beginning of a shot and makes it again. `branch` gives a second film from there.
"""

import copy
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
from jaxtyping import Array, Float

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError, nearest, raise_faults
from causalcine_jax.film.history import FilmHistory
from causalcine_jax.film.journal import Journal, read_journal
from causalcine_jax.film.model_folder import Model, load_model
from causalcine_jax.film.moves import Chunk, Moves
from causalcine_jax.film.pool import check_room, pool_frames_for
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import ChunkOutput, copied
from causalcine_jax.story import ResolvedShot, Shot, Story
from causalcine_jax.story_schema import duration_faults


class Director:
    """An iterator over the chunks of one film. Shots may be added from another thread."""

    def __init__(
        self,
        model: Model | str | Path | None,
        story: Story | str,
        *,
        seed: int | None = None,
        sampler: SamplerConfig | None = None,
        memory: MemoryConfig | None = None,
        pool: PoolConfig = PoolConfig(),
        start: Float[Array, "1 f h w z"] | None = None,
        moves: Moves = Moves(),
    ):
        """Checks every prompt and allocates the pool; the first chunk is computed on demand.

        Args:
          model: the networks, or the model folder to load them from; None is the embedded one.
          story: a story, or only a global caption; its shots then come by `add_shot`.
          seed, sampler, memory: in place of the story's and the model's.
          pool: size, dtype and place of the history kept. The place does not change the film.
          start: latents of the film's first chunks, in place of noise; see `start.opening`.
          moves: how chunks are made, if not by the rollout (`whole_film.WHOLE_FILM`).

        Raises:
          DataError: the model folder is missing or damaged.
          UsageError: unreadable prompts, or a pool too small for the field or too large for memory.
        """
        if model is None or isinstance(model, str | Path):
            model = load_model(model)
        story = Story((), global_caption=story) if isinstance(story, str) else story
        story = model.completed(story)
        self.story = story if seed is None else replace(story, seed=seed)
        self.resolved = self.story.resolve(model.chunk_frames)
        self.model = model
        self._start, self._moves = start, moves
        self._lock = threading.Lock()
        self._prompt, self._context, self._negative = None, None, None
        self._check_prompts(self.resolved.shots, self.story)
        video = self.story.video
        settings = FilmSettings(
            sampler or model.sampler,
            memory or model.memory,
            pool,
            video.height,
            video.width,
            self.story.seed,
            self.story.negative,
        )
        frames = moves.pool_size(model, settings, self.resolved.chunks or None)
        self.settings = settings = replace(settings, pool=replace(pool, frames=frames, gb=None))
        self.state = moves.start(model, settings)
        self._history, self._journal = FilmHistory(), None

    @classmethod
    def resume(cls, folder: str | Path, model: Model | str | Path | None = None) -> "Director":
        """Resumes the film of `keep_in` in `folder`, by committing and decoding its chunks again.

        model  of the same weights, in place of the folder that the film was begun with

        Raises:
          DataError: no film was begun there, or its model is gone.
          UsageError: the folder's journal is faulty, or the model's weights are others.
        """
        kept = read_journal(folder, model)
        made_with = {"sampler": kept.sampler, "memory": kept.memory, "pool": kept.pool}
        director = cls(kept.model, kept.story, start=kept.start, **made_with)
        for latents in kept.latents[: director.resolved.chunks]:
            director._next(latents)
        director._keep(Journal(folder, director.model, kept.start), director.next_chunk)
        return director

    def keep_in(self, folder: str | Path) -> None:
        """Keeps the film in `folder` from now on, chunk by chunk, so that `resume` can resume it.

        `UsageError` if the film is not made chunk by chunk, `DataError` if writing fails.
        """
        if self.state.cache is None:
            raise UsageError("a film that is made at once cannot be kept chunk by chunk")
        with self._lock:
            self._keep(Journal(folder, self.model, self._start), kept=0)

    @property
    def sampler(self) -> SamplerConfig:
        return self.settings.sampler

    @property
    def memory(self) -> MemoryConfig:
        return self.settings.memory

    @property
    def next_chunk(self) -> int:
        """The index of the chunk that comes next, from 0."""
        return self.state.chunk

    @property
    def pool_bytes(self) -> int:
        """Bytes of the pool of history, wherever they are."""
        return 0 if self.state.cache is None else self.state.cache.bytes

    @property
    def pool_host_bytes(self) -> int:
        """Those of them in host memory."""
        return 0 if self.state.cache is None else self.state.cache.host_bytes

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
          UsageError: the shot is invalid (lists all faults), or outgrows a pool that may not evict.
        """
        with self._lock:
            shots = (*self.story.shots, Shot(caption, seconds, chunks, id))
            self._retell(replace(self.story, shots=shots), checked=1)
            return self.resolved.shots[-1]

    def extend(self, *, chunks: int) -> ResolvedShot:
        """Lengthens the film's last shot by so many chunks; returns its new place in the film.

        Raises:
          UsageError: the film has no shot yet, or may not evict and would outgrow its pool.
        """
        with self._lock:
            if not self.story.shots:
                raise UsageError("a film without shots has nothing to extend: add a shot first")
            raise_faults("extend", duration_faults(None, chunks, "extend"))
            longer = self.resolved.shots[-1].chunks + chunks
            last = replace(self.story.shots[-1], chunks=longer, seconds=None)
            self._retell(replace(self.story, shots=(*self.story.shots[:-1], last)), checked=0)
            return self.resolved.shots[-1]

    def retake(
        self, shot: str, *, caption: str | None = None, seed: int | None = None
    ) -> ResolvedShot:
        """Makes a shot that has begun again, and the shots after it, which stay queued.

        shot     its id
        caption  a new one; None keeps it
        seed     of the shot's noise; None takes another than before where the caption stays

        Raises:
          UsageError: no such shot, or a caption that the model cannot read; the film is as it was.
        """
        with self._lock:
            number = self._number(shot)
            old = self.story.shots[number]
            if seed is None and caption is None:
                seed = ((self.story.seed if old.seed is None else old.seed) + 1) % 2**32
            new = replace(
                old,
                caption=old.caption if caption is None else caption,
                seed=old.seed if seed is None else seed,
            )
            shots = (*self.story.shots[:number], new, *self.story.shots[number + 1 :])
            story = replace(self.story, shots=shots)
            self._check_prompts([story.resolve(self.model.chunk_frames).shots[number]], story)
            self._go_to(min(self.resolved.shots[number].first_chunk, self.next_chunk))
            self._retell(story, checked=0)
            return self.resolved.shots[number]

    def branch(self, shot: str) -> "Director":
        """A second film, with its own pool, that equals this one up to the beginning of `shot`.

        It has no shots after that, and no journal until `keep_in`. `UsageError` if there is no such
        shot, or no memory for another pool.
        """
        with self._lock:
            number = self._number(shot)
            check_room(self.pool_bytes - self.pool_host_bytes)
            other = copy.copy(self)
            other._lock, other._journal = threading.Lock(), None
            other.state, other._history = copied(self.state), self._history.copy()
            other.story = replace(self.story, shots=self.story.shots[:number])
            other._go_to(min(self.resolved.shots[number].first_chunk, self.next_chunk))
            other.resolved = other.story.resolve(self.model.chunk_frames)
            return other

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        return self._next()

    def _next(self, given: Float[Array, "1 c h w z"] | None = None) -> Chunk:
        """The next chunk: from its noise, or of the given latents, as the start's chunks are."""
        with self._lock:
            resolved, index = self.resolved, self.next_chunk
            if index >= resolved.chunks:
                raise StopIteration
            number = resolved.shot_of_chunk[index]
            shot, seed = resolved.shots[number], self.story.shots[number].seed
        if index == shot.first_chunk:
            self._history.mark(self.state)
        first, end = index * self.model.chunk_frames, (index + 1) * self.model.chunk_frames
        if given is None and self._start is not None and end <= self._start.shape[1]:
            given = self._start[:, first:end]
        output = self._roll(shot.prompt, seed, given)
        if self._journal:
            self._journal.add(index, self._history.latents[index])
        return Chunk(output.frames, index, shot, output.retrieved, output.seconds)

    def _keep(self, journal: Journal, kept: int) -> None:
        """Keeps the film in a journal that holds its first `kept` chunks already."""
        journal.cut(kept)
        journal.tell(self.story, self.settings)
        for chunk, latents in enumerate(self._history.latents[kept:], start=kept):
            journal.add(chunk, latents)
        self._journal = journal

    def _roll(self, prompt: str, seed: int | None, latents) -> ChunkOutput:
        """The next chunk under a prompt: from its noise, or of `latents`."""
        if prompt != self._prompt:
            if self._negative is None and self.settings.histories == 2:
                self._negative = self.model.embed(self.settings.negative)
            embedded = self._moves.embed(self.model, prompt, self.settings, self._negative)
            self._prompt, self._context = prompt, embedded
        state, key = self.state, self.state.key
        if seed is not None:
            state = replace(state, key=jax.random.key(seed))
        state, output = self._moves.roll(
            self.model, state, self._context, self.settings, latents=latents
        )
        self._history.add(output.latents, prompt)
        self.state = replace(state, key=key)
        return output

    def _go_to(self, chunk: int) -> None:
        """Rewinds to before `chunk`: marks slots empty or, after eviction, commits again."""
        self.state = self._history.back_to(chunk, self.model, self.state, self.settings)
        self._prompt = None
        if self._journal:
            self._journal.cut(chunk)

    def _number(self, shot: str) -> int:
        """The place of the shot of that id among the story's shots."""
        ids = [each.id for each in self.resolved.shots]
        if shot not in ids:
            raise UsageError(f"this film has no shot {shot!r}, {nearest(str(shot), ids)}")
        return ids.index(shot)

    def _retell(self, story: Story, checked: int) -> None:
        """Goes on with another story, whose last `checked` prompts are new."""
        resolved = story.resolve(self.model.chunk_frames)
        if checked:
            self._check_prompts(resolved.shots[-checked:], story)
        if pool := self.settings.pool.frames:
            pool_frames_for(resolved.chunks, self.memory, self.model.chunk_frames, pool)
        self.story, self.resolved = story, resolved
        if self._journal:
            self._journal.tell(story, self.settings)

    def _check_prompts(self, shots: Iterable[ResolvedShot], story: Story) -> None:
        prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in shots]
        self.model.check_prompts([*prompts, ("negative", story.negative)], story)
