"""One film's rollout: what was made of it so far, and its next chunk.

What was made (`KeptFilm`: latents on the host) is the source of truth. The state (pool, decoder's
cache) is rebuilt from it where they differ: after going back, or after an interrupted move.
"""

import copy
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.cut import open_shot
from causalcine_jax.film.host_memory import check_host_room
from causalcine_jax.film.kept_film import KeptChunk, KeptFilm, must_replay, state_after
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.pool import check_room
from causalcine_jax.film.rollout_functions import RolloutFunctions
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
        functions: RolloutFunctions,
        start: Float[AnyArray, "1 f h w z"] | None = None,
    ):
        self.model, self.settings, self._functions = model, settings, functions
        self.start = None if start is None else _checked(start, model, settings)
        self.state: RolloutState = functions.start(model, settings)
        self._history = KeptFilm()
        self._earlier: tuple[KeptChunk, ...] = ()
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

    def replay(self, chunks: tuple[KeptChunk, ...]) -> None:
        """The film's first chunks, kept by an earlier process: committed again, not denoised."""
        self._earlier = chunks

    @property
    def to_replay(self) -> int:
        """Number of those chunks that are not yet replayed."""
        return max(0, len(self._earlier) - self.next_chunk)

    def kept_chunks(self, chunks: int | None = None) -> tuple[KeptChunk, ...]:
        """What is kept of the film's first chunks, made here or to be replayed."""
        done = self._history.chunks
        return (*done, *self._earlier[len(done) :])[:chunks]

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
        known = self._earlier[index] if index < len(self._earlier) else None
        latents = self._of_start(index) if known is None else known.latents
        state, settings, prompt = self.state, self.settings, self._embedded(shot.prompt)
        if index == shot.first_chunk and settings.memory.at_cut != "keep":
            state, settings = open_shot(self.model, state, history.latents, prompt, self.settings)
        if seed is not None:  # a shot's own seed: for this chunk only
            state = replace(state, key=jax.random.key(seed))
        state, output = self._functions.roll(self.model, state, prompt, settings, latents=latents)
        retrieved = output.retrieved if known is None else known.retrieved
        history, state = history.added(output.latents, retrieved), replace(state, key=key)
        assert output.frames is not None
        chunk = Chunk(output.frames, index, shot, retrieved, output.seconds)
        # A chunk in the history is never made again, so nothing may fail between here and return.
        self._history, self.state = history, state
        return chunk

    def truncate(self, chunks: int) -> None:
        """Forgets all but the first `chunks` chunks."""
        self._history, self._earlier = self._history.until(chunks), self._earlier[:chunks]

    def catch_up(self, resolved: ResolvedStory, stepwise: bool = False) -> None:
        """Brings the state to the end of the history.

        stepwise  if chunks must be committed again for that: back to the beginning, and `make`
                  replays them
        """
        if stepwise and must_replay(self.state, self.next_chunk, self.settings):
            self._earlier, self._history = self.kept_chunks(), KeptFilm()
        self.state = state_after(
            self._history, resolved, self.model, self.state, self.settings, self._functions.start
        )

    def copy(self) -> "FilmRollout":
        """The same film with a pool of its own. `UsageError` if there is no memory for that."""
        check_room(self.pool_bytes - self.pool_host_bytes)
        if self.pool_host_bytes:
            check_host_room(self.pool_host_bytes)
        other = copy.copy(self)
        other.state = copied(self.state)
        return other

    def is_from_start(self, chunk: int) -> bool:
        """Whether the film's start gives this chunk."""
        return self._of_start(chunk) is not None

    def _of_start(self, chunk: int) -> Float[np.ndarray, "1 c h w z"] | None:
        first, end = chunk * self.model.chunk_frames, (chunk + 1) * self.model.chunk_frames
        if self.start is None or end > self.start.shape[1]:
            return None
        return self.start[:, first:end]

    def _embedded(self, prompt: str):
        """What the rollout needs of a prompt. The last one is kept for the chunks of its shot."""
        if prompt != self._prompt:
            if self._negative is None and self.settings.histories == 2:
                self._negative = self.model.embed(self.settings.negative)
            embedded = self._functions.embed(self.model, prompt, self.settings, self._negative)
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
