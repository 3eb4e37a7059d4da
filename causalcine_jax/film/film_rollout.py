"""One film's rollout: what was made of it so far, and its next chunk.

The history is what counts. The state (pool and decoder's cache) is made of it again wherever they
differ: after going back, or after a move that was stopped half-way.
"""

import copy
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.history import FilmHistory, KeptChunk, state_after
from causalcine_jax.film.host_memory import check_host_room
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.moves import Moves
from causalcine_jax.film.pool import check_room
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import RolloutState, copied
from causalcine_jax.story import ResolvedStory, Story
from causalcine_jax.utils.arrays import AnyArray


class FilmRollout:
    """Makes a film chunk by chunk. For one thread at a time.

    start  latents of the film's first chunks, in place of noise
    state  where the rollout is; `make` donates its arrays
    """

    def __init__(
        self,
        model: Model,
        settings: FilmSettings,
        moves: Moves,
        start: Float[AnyArray, "1 f h w z"] | None = None,
    ):
        self.model, self.settings, self._moves = model, settings, moves
        self.start = None if start is None else _checked(start, model, settings)
        self.state: RolloutState = moves.start(model, settings)
        self._history = FilmHistory()
        self._coming: tuple[KeptChunk, ...] = ()
        self._prompt: str | None = None
        self._context: Any = None
        self._negative: Array | None = None

    @property
    def next_chunk(self) -> int:
        return len(self._history.chunks)

    @property
    def pool_bytes(self) -> int:
        return 0 if self.state.cache is None else self.state.cache.bytes

    @property
    def pool_host_bytes(self) -> int:
        return 0 if self.state.cache is None else self.state.cache.host_bytes

    def give(self, chunks: tuple[KeptChunk, ...]) -> None:
        """The film's first chunks, kept by an earlier process: committed again, not denoised."""
        self._coming = chunks

    @property
    def to_replay(self) -> int:
        """How many given chunks are still to come."""
        return max(0, len(self._coming) - self.next_chunk)

    def kept(self, chunks: int | None = None) -> tuple[KeptChunk, ...]:
        """What is kept of the film's first chunks, made here or given."""
        done = self._history.chunks
        return (*done, *self._coming[len(done) :])[:chunks]

    def make(self, story: Story, resolved: ResolvedStory) -> Chunk:
        """The next chunk: from its noise, from the start, or from what was kept of it.

        After an exception the rollout is as before.
        """
        self.catch_up(resolved)
        index = self.next_chunk
        number = resolved.shot_of_chunk[index]
        shot, seed = resolved.shots[number], story.shots[number].seed
        history, key = self._history, self.state.key
        if index == shot.first_chunk:
            history = history.marked(self.state)
        known = self._coming[index] if index < len(self._coming) else None
        latents = self._of_start(index) if known is None else known.latents
        state = self.state if seed is None else replace(self.state, key=jax.random.key(seed))
        state, output = self._moves.roll(
            self.model, state, self._embedded(shot.prompt), self.settings, latents=latents
        )
        retrieved = output.retrieved if known is None else known.retrieved
        history, state = history.added(output.latents, retrieved), replace(state, key=key)
        assert output.frames is not None
        chunk = Chunk(output.frames, index, shot, retrieved, output.seconds)
        # Last, and together: a chunk in the history is not made again, so it must be returned.
        self._history, self.state = history, state
        return chunk

    def cut(self, chunks: int) -> None:
        """Forgets all but the first `chunks` chunks."""
        self._history, self._coming = self._history.until(chunks), self._coming[:chunks]

    def catch_up(self, resolved: ResolvedStory) -> None:
        """Brings the state to the end of the history."""
        self.state = state_after(
            self._history, resolved, self.model, self.state, self.settings, self._moves.start
        )

    def copy(self) -> "FilmRollout":
        """The same film with a pool of its own. `UsageError` if there is no memory for that."""
        check_room(self.pool_bytes - self.pool_host_bytes)
        if self.pool_host_bytes:
            check_host_room(self.pool_host_bytes)
        other = copy.copy(self)
        other.state = copied(self.state)
        return other

    def is_given(self, chunk: int) -> bool:
        """Whether the film's start gives this chunk."""
        return self._of_start(chunk) is not None

    def _of_start(self, chunk: int) -> Float[np.ndarray, "1 c h w z"] | None:
        first, end = chunk * self.model.chunk_frames, (chunk + 1) * self.model.chunk_frames
        if self.start is None or end > self.start.shape[1]:
            return None
        return self.start[:, first:end]

    def _embedded(self, prompt: str):
        """What the moves need of a prompt. The last one is kept for the chunks of its shot."""
        if prompt != self._prompt:
            if self._negative is None and self.settings.histories == 2:
                self._negative = self.model.embed(self.settings.negative)
            embedded = self._moves.embed(self.model, prompt, self.settings, self._negative)
            self._prompt, self._context = prompt, embedded
        return self._context


def _checked(
    start: Float[AnyArray, "1 f h w z"], model: Model, settings: FilmSettings
) -> Float[np.ndarray, "1 f h w z"]:
    size = latent_size(model, settings.height, settings.width)
    fits = (1, *size, model.transformer.config.in_dim)
    if start.ndim != 5 or (start.shape[0], *start.shape[2:]) != fits:
        raise UsageError(
            f"the film's start has latents of shape {tuple(start.shape)}, and this film needs "
            f"(1, frames, {', '.join(map(str, fits[1:]))}): encode it at the film's size"
        )
    return np.asarray(start, np.float32)
