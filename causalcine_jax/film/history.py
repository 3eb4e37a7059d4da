"""What a film keeps of its chunks, so that it can go back to the beginning of any shot.

The pool of history is append-only until something is evicted, so going back marks slots empty.
Evicted chunks are restored by committing their latents again. These are kept on the host, about a
megabyte a chunk at 480x832. The decoder's cache is kept at the beginning of each shot, newest first
and up to MARK_BYTES. Chunks after the nearest earlier cache are decoded again.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.film import rollout
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import RolloutState, decode_next, embed, holds_all, rewind
from causalcine_jax.parallel.processes import gather_to_host

MARK_BYTES = 2**29


@dataclass
class FilmHistory:
    """A film's chunks so far.

    latents, prompts  of each chunk
    marks             the decoder's cache before the first chunk of each shot
    """

    latents: list[Float[np.ndarray, "1 c h w z"]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    marks: dict[int, Any] = field(default_factory=dict)

    def add(self, latents: Float[Array, "1 c h w z"], prompt: str) -> None:
        self.latents.append(gather_to_host(latents))
        self.prompts.append(prompt)

    def mark(self, state: RolloutState) -> None:
        """Keeps the decoder's current cache."""
        self.marks[state.chunk] = _copied(state.vae_cache)
        size = lambda cache: sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
        while len(self.marks) > 1 and sum(map(size, self.marks.values())) > MARK_BYTES:
            self.marks.pop(min(self.marks))

    def copy(self) -> "FilmHistory":
        """A history for a branch. Its arrays are shared, because they are never written to."""
        return FilmHistory(list(self.latents), list(self.prompts), dict(self.marks))

    def back_to(
        self, chunk: int, model: Model, state: RolloutState, settings: FilmSettings
    ) -> RolloutState:
        """The state before `chunk`; forgets that chunk and what came after it."""
        cache = self._decoder_before(chunk, model)
        del self.latents[chunk:], self.prompts[chunk:]
        self.marks = {at: mark for at, mark in self.marks.items() if at <= chunk}
        counts = settings.memory.eviction == "least_retrieved"
        if state.cache is None or (holds_all(state, chunk) and not counts):
            return rewind(state, chunk, cache)
        return replayed(self, model, rewind(state, 0, None), settings, cache)

    def _decoder_before(self, chunk: int, model: Model):
        """The decoder's cache before `chunk`."""
        known = max((at for at in self.marks if at <= chunk), default=0)
        cache = _copied(self.marks.get(known))
        for latents in self.latents[known:chunk]:
            _, cache = decode_next(model, cache, latents)
        return cache


def replayed(
    history: FilmHistory, model: Model, state: RolloutState, settings: FilmSettings, vae_cache
) -> RolloutState:
    """An empty state with all chunks of the history committed again: the film's own pool."""
    prompt, context, cache = None, None, state.cache
    for index, latents in enumerate(history.latents):
        if history.prompts[index] != prompt:
            prompt = history.prompts[index]
            context = embed(model, prompt, settings)
        films = jnp.concatenate([latents] * settings.histories)
        cache = rollout.commit(
            model.transformer, cache, films, context, np.int32(index), memory=settings.memory
        )
    return dataclasses.replace(state, cache=cache, vae_cache=vae_cache, chunk=len(history.latents))


def _copied(tree):
    return jax.tree.map(jnp.copy, tree)
