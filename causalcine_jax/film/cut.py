"""What a shot's start does to a film's history, as memory.at_cut has it.

    keep     nothing: history keeps the prompt it was made under, as in CausalCine
    recache  the newest chunks are committed again under the new prompt, the film's first frames
             stay as they were: LongLive (arXiv 2509.22622)
    flush    all is forgotten but the film's first frames and the last chunk, and the shot's first
             chunk stands far from them: Infinity-RoPE's KV flush and RoPE cut (arXiv 2511.20649)

The pool is then no longer append-only, so a film that goes back commits its chunks again
(kept_film.py). Films of one batch share the pool's slots, so they must be cut at the same chunk.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Float

from causalcine_jax.config import AFTER_CUT
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import RolloutState, commit_next
from causalcine_jax.models.cache.kv_cache import forgotten
from causalcine_jax.models.dit import TextContext
from causalcine_jax.utils.arrays import AnyArray


def open_shot(
    model: Model,
    state: RolloutState,
    made: Sequence[Float[AnyArray, "b c h w z"]],
    prompt: TextContext,
    settings: FilmSettings,
) -> tuple[RolloutState, FilmSettings]:
    """The state before a shot's first chunk, and what that one chunk is made with.

    The old state's pool is donated where chunks are committed again.

    made    latents of the film's chunks so far, or of its newest
    prompt  of the shot that begins
    """
    memory, cache = settings.memory, state.cache
    if memory.at_cut == "keep" or state.chunk == 0 or cache is None:
        return state, settings
    first_chunks = -(-memory.first_frames // cache.chunk_frames)
    if memory.at_cut == "flush":
        left = (cache.chunk < first_chunks) | (cache.chunk == state.chunk - 1)
        memory = dataclasses.replace(memory, positions=AFTER_CUT)
        flushed = dataclasses.replace(state, cache=forgotten(cache, ~left))
        return flushed, dataclasses.replace(settings, memory=memory)
    # As many as a cache of window, sink and own chunk holds: LongLive's 12 frames.
    newest = max(0, min(memory.window_chunks + first_chunks + 1, state.chunk - first_chunks))
    first = state.chunk - newest
    # Where memory reaches no older chunk, a pool may or may not hold one: the film must not differ.
    gone = cache.chunk >= (first if memory.reaches_all else first_chunks)
    state = dataclasses.replace(state, cache=forgotten(cache, gone), chunk=first)
    for latents in made[len(made) - newest :]:
        state = commit_next(model, state, jnp.asarray(latents), prompt, settings)
    return state, settings
