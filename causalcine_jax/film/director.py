"""The director: turns a story into a stream of chunks and takes new shots while they stream.

    director = Director("model folder", read_story("story.yaml"))
    for chunk in director:
        show(chunk.frames)

A shot's prompt is embedded once, when the shot begins. A new shot begins after all queued shots.
The stream ends when no shot is left; after `add_shot` it can be iterated again. `retake` takes a
film back to the beginning of a shot and makes it again. `branch` gives a second film from there.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.film_rollout import FilmRollout
from causalcine_jax.film.journal import Journal
from causalcine_jax.film.locks import Locks
from causalcine_jax.film.model_folder import Model, load_model
from causalcine_jax.film.pool import PoolWatch, check_pool
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import RolloutState
from causalcine_jax.film.story_edits import extended, retaken, with_shot
from causalcine_jax.story import ResolvedShot, Shot, Story
from causalcine_jax.utils.arrays import AnyArray


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
        start: Float[AnyArray, "1 f h w z"] | None = None,
        functions: RolloutFunctions = RolloutFunctions(),
    ):
        """Checks every prompt and allocates the pool; the first chunk is computed on demand.

        Args:
          model: the networks, or the model folder to load them from; None is the embedded one.
          story: a story, or only a global caption; its shots then come by `add_shot`.
          seed, sampler, memory: in place of the story's and the model's.
          pool: size, dtype and place of the history kept. The place does not change the film.
          start: latents of the film's first chunks, in place of noise; see film_folder/start.py.
          functions: how chunks are made, if not by the rollout (`whole_film.WHOLE_FILM`).

        Raises:
          DataError: the model folder is missing or damaged.
          UsageError: unreadable prompts, or a pool too small for the field or too large for memory.
        """
        if model is None or isinstance(model, str | Path):
            model = load_model(model)
        story = Story((), global_caption=story) if isinstance(story, str) else story
        story = model.completed(story)
        self.story = story if seed is None else replace(story, seed=seed)
        self.model, self.resolved = model, self.story.resolve(model.chunk_frames)
        self._check_prompts(self.resolved.shots, self.story)
        settings = FilmSettings(
            sampler or model.sampler,
            memory or model.memory,
            pool,
            *self.story.video.size,
            self.story.seed,
            self.story.negative,
        )
        frames = functions.pool_size(model, settings, self.resolved.chunks or None)
        self.settings = settings = replace(settings, pool=replace(pool, frames=frames, gb=None))
        self.pool_watch = PoolWatch(pool, settings, self.story.video.fps)
        self._rollout = FilmRollout(model, settings, functions, start)
        self._made: Chunk | None = None
        self._journal: Journal | None = None
        self._last_kept: Callable[[], Journal | None] = lambda: None  # weak; branches copy it
        self._locks = Locks()

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        model: Model | str | Path | None = None,
        *,
        from_beginning: bool = False,
    ) -> "Director":
        """Resumes the film of `keep_in` in `folder`: commits and decodes its chunks again.

        model           of the same weights, in place of the folder that the film was begun with
        from_beginning  whether the next chunk is the film's first, not the first that is missing

        Raises:
          DataError: no film was begun there, or its start or model is gone.
          UsageError: it is still being made, its journal is faulty, or the weights are others.
        """
        journal = Journal(folder)
        try:
            kept = journal.read(model)
            director = cls(
                kept.model,
                kept.story,
                sampler=kept.sampler,
                memory=kept.memory,
                pool=kept.pool,
                start=kept.start,
            )
            director.pool_watch.asked = kept.pool_asked  # kept.pool has the size that was decided
            director.pool_watch.check(director.resolved.chunks * kept.model.chunk_frames, 2)
            director._rollout.replay(kept.chunks[: director.resolved.chunks])
            while not from_beginning and director._rollout.to_replay:
                next(director)
            director._keep(journal)
        except BaseException:
            journal.close()
            raise
        return director

    def keep_in(self, folder: str | Path) -> None:
        """Keeps the film in `folder` from now on, chunk by chunk, so that `resume` can resume it.

        `UsageError` if the folder holds another film, or this one is not made chunk by chunk.
        `DataError` if writing fails.
        """
        if self.state.cache is None:
            raise UsageError("a film that is made at once cannot be kept chunk by chunk")
        with self._locks.between_chunks():
            if self._journal and self._journal.folder == Path(folder).resolve():
                return
            journal = Journal.new(folder, self.model, self._rollout.start, self.pool_watch.asked)
            try:
                self._keep(journal)
            except BaseException:
                journal.abandon()
                raise

    def close(self) -> None:
        """Ends keeping the film, so that another director can resume it from its folder."""
        with self._locks.between_chunks():
            journal, self._journal = self._journal, None
            if journal:
                journal.close()

    @property
    def memory(self) -> MemoryConfig:
        return self.settings.memory

    @property
    def state(self) -> RolloutState:
        """Where the rollout is; the next chunk donates its arrays."""
        return self._rollout.state

    @property
    def next_chunk(self) -> int:
        """The index of the chunk that comes next, from 0."""
        return self._rollout.next_chunk

    @property
    def pool_bytes(self) -> int:
        """Bytes of the pool of history, wherever they are."""
        return self._rollout.pool_bytes

    @property
    def pool_host_bytes(self) -> int:
        """Bytes of the pool in host memory."""
        return self._rollout.pool_host_bytes

    def add_shot(
        self,
        caption: str,
        *,
        chunks: int | None = None,
        seconds: float | None = None,
        id: str | None = None,
        seed: int | None = None,
    ) -> ResolvedShot:
        """Queues a shot after all others; returns its place in the film. Give chunks or seconds.

        The film's seed is the shot's where none is given. `UsageError` if the shot is invalid
        (lists all faults), or outgrows a pool that may not evict.
        """
        with self._locks.story:
            story = with_shot(self.story, Shot(caption, seconds, chunks, id, seed))
            self._replace_story(story, new_prompts=1)
            return self.resolved.shots[-1]

    def extend(self, *, chunks: int) -> ResolvedShot:
        """Lengthens the film's last shot; returns its new place in the film.

        `UsageError` if it has no shot yet, or may not evict and would outgrow its pool.
        """
        with self._locks.story:
            story = extended(self.story, chunks, self.model.chunk_frames)
            self._replace_story(story, new_prompts=0)
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
        with self._locks.between_chunks():
            number = self.resolved.number_of(shot)
            place = self.resolved.shots[number]
            if caption is None and self._rollout.is_from_start(place.end_chunk - 1):
                raise UsageError(
                    f"shot {shot!r} is the picture or clip that the film starts from: "
                    "a new seed does not change it; give a new caption"
                )
            story = retaken(self.story, number, caption, seed)
            self._check_prompts([story.resolve(self.model.chunk_frames).shots[number]], story)
            self._replace_story(story, new_prompts=0, chunks=place.first_chunk)
            self._rollout.catch_up(self.resolved)
            return self.resolved.shots[number]

    def branch(self, shot: str, stepwise: bool = False) -> "Director":
        """A second film, with its own pool, that equals this one up to the beginning of `shot`.

        It has no later shots, and no journal until `keep_in`. `UsageError` if there is no such
        shot, or no memory for another pool. stepwise: if its history was evicted, the branch
        is before its first chunk, and iterating makes those chunks again.
        """
        with self._locks.between_chunks():
            number = self.resolved.number_of(shot)
            self._rollout.catch_up(self.resolved)
            other = copy.copy(self)
            other._locks = Locks()
            other._rollout, other._made, other._journal = self._rollout.copy(), None, None
            story = replace(self.story, shots=self.story.shots[:number])
            first = self.resolved.shots[number].first_chunk
            other._replace_story(story, new_prompts=0, chunks=first)
            other._rollout.catch_up(other.resolved, stepwise)
            return other

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with self._locks.turn:  # a waiting retake goes first
            pass
        with self._locks.rolling:
            if self._made is None:
                with self._locks.story:
                    story, resolved = self.story, self.resolved
                if self.next_chunk >= resolved.chunks:
                    raise StopIteration
                self._made = self._rollout.make(story, resolved)
            with self._locks.story:
                self._write(self.story)  # if this fails, the chunk comes with the next call
            made, self._made = self._made, None
            return made

    def _keep(self, journal: Journal) -> None:
        journal.write(self.story, self.settings, self._rollout.kept_chunks(), self._last_kept())
        self._journal, self._last_kept = journal, weakref.ref(journal)

    def _write(self, story: Story, chunks: int | None = None) -> None:
        if self._journal:
            self._journal.write(story, self.settings, self._rollout.kept_chunks(chunks))

    def _replace_story(self, story: Story, new_prompts: int, chunks: int | None = None) -> None:
        """Replaces the story; the last `new_prompts` prompts of the new story are checked.

        chunks  of the film that stay; None for all. Other than None only between chunks.
        """
        resolved = story.resolve(self.model.chunk_frames)
        if new_prompts:
            self._check_prompts(resolved.shots[-new_prompts:], story)
        if self.settings.pool.frames is None and resolved.chunks > 1:
            raise UsageError("a film that is made at once has one shot, which cannot be extended")
        if pool := self.settings.pool.frames:
            check_pool(pool, resolved.chunks, self.memory, self.model.chunk_frames)
        self._write(story, chunks)  # first: if this fails, the film is as it was
        if chunks is not None:  # before the story: it must not be kept with chunks of another take
            if self._made and self._made.index >= chunks:
                self._made = None
            self._rollout.truncate(chunks)
        self.story, self.resolved = story, resolved
        self.pool_watch.check(resolved.chunks * self.model.chunk_frames, 3)

    def _check_prompts(self, shots: Iterable[ResolvedShot], story: Story) -> None:
        prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in shots]
        self.model.check_prompts([*prompts, ("negative", story.negative)], story)
