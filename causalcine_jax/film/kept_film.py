"""What a film keeps of its chunks, so that it can go back to the beginning of any shot.

The pool of history is append-only until something is evicted, so going back marks slots empty.
Evicted chunks are restored by committing their latents again. These are kept on the host, about a
megabyte a chunk at 832x480. The decoder's cache is kept at the beginning of each shot, newest first
and up to MARK_BYTES. Chunks after the nearest earlier cache are decoded again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from causalcine_jax.film.cut import open_shot
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import (
    RolloutState,
    commit_next,
    decode_next,
    embed,
    holds_all,
    is_lost,
    rewind,
)
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.story import ResolvedStory
from causalcine_jax.utils.arrays import AnyArray, tree_bytes

MARK_BYTES = 2**29


@dataclass(frozen=True)
class KeptChunk:
    """What makes a chunk again without denoising.

    latents    what was committed
    retrieved  as of `state.ChunkOutput`
    """

    latents: Float[np.ndarray, "1 c h w z"]
    retrieved: Int[np.ndarray, "l k"]


@dataclass(frozen=True)
class KeptFilm:
    """A film's chunks so far: a value, from which the rollout's state can always be made again.

    chunks  what is kept of each
    marks   the decoder's cache before the first chunk of each shot
    """

    chunks: tuple[KeptChunk, ...] = ()
    marks: Mapping[int, Any] = field(default_factory=dict)

    @property
    def latents(self) -> tuple[Float[np.ndarray, "1 c h w z"], ...]:
        return tuple(chunk.latents for chunk in self.chunks)

    def added(
        self, latents: Float[AnyArray, "1 c h w z"], retrieved: Int[np.ndarray, "l k"]
    ) -> "KeptFilm":
        # A copy: on a CPU the host's view would keep the device's array, which takes more memory.
        chunk = KeptChunk(np.array(gather_to_host(latents)), retrieved)
        return dataclasses.replace(self, chunks=(*self.chunks, chunk))

    def marked(self, state: RolloutState) -> "KeptFilm":
        """With the decoder's current cache, unless it alone exceeds MARK_BYTES."""
        if tree_bytes(state.vae_cache) > MARK_BYTES:
            return self
        marks = {**self.marks, state.chunk: _copied(state.vae_cache)}
        while sum(map(tree_bytes, marks.values())) > MARK_BYTES:
            marks.pop(min(marks))
        return dataclasses.replace(self, marks=marks)

    def until(self, chunk: int) -> "KeptFilm":
        """Without that chunk and those after it."""
        marks = {at: mark for at, mark in self.marks.items() if at <= chunk}
        return KeptFilm(self.chunks[:chunk], marks)


def state_after(
    history: KeptFilm,
    story: ResolvedStory,
    model: Model,
    state: RolloutState,
    settings: FilmSettings,
    begin: Callable[[Model, FilmSettings], RolloutState],
) -> RolloutState:
    """The state after all chunks of `history`: `state` itself, rewound, or made again.

    story  has the prompts of the history's chunks
    state  of this film, any number of chunks further; it may have lost its arrays
    begin  makes the state before the first chunk, needed where `state` has lost its arrays
    """
    chunk, lost = len(history.chunks), is_lost(state)
    if chunk == state.chunk and not lost:
        return state
    vae_cache = _decoder_before(history, chunk, model)
    if not must_replay(state, chunk, settings):
        return rewind(state, chunk, vae_cache)
    empty = begin(model, settings) if lost else rewind(state, 0, None)
    return _replayed(history, story, model, empty, settings, vae_cache)


def must_replay(state: RolloutState, chunk: int, settings: FilmSettings) -> bool:
    """Whether chunks must be committed again for the state after the first `chunk` of them."""
    if state.cache is None or (chunk == state.chunk and not is_lost(state)):
        return False
    memory = settings.memory
    changes = memory.eviction == "least_retrieved" or memory.at_cut != "keep"
    return is_lost(state) or changes or not holds_all(state, chunk)


def _decoder_before(history: KeptFilm, chunk: int, model: Model):
    """The decoder's cache before `chunk`."""
    known = max((at for at in history.marks if at <= chunk), default=0)
    cache = _copied(history.marks.get(known))
    for kept in history.chunks[known:chunk]:
        _, cache = decode_next(model, cache, kept.latents)
    return cache


def _replayed(
    history: KeptFilm,
    story: ResolvedStory,
    model: Model,
    state: RolloutState,
    settings: FilmSettings,
    vae_cache,
) -> RolloutState:
    """An empty state with all chunks of the history committed again: the film's own pool."""
    shot, context = None, None
    for index, (kept, number) in enumerate(zip(history.chunks, story.shot_of_chunk, strict=False)):
        rule = settings
        if number != shot:
            shot, context = number, embed(model, story.shots[number].prompt, settings)
            made = history.latents[:index]
            state, rule = open_shot(model, state, made, context, settings)
        assert context is not None
        state = commit_next(model, state, kept.latents, context, rule)
    return dataclasses.replace(state, vae_cache=vae_cache)


def _copied(tree):
    return jax.tree.map(jnp.copy, tree)
