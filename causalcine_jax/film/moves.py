"""What a director is made of: how chunks are made, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import pool_size
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import ChunkOutput, RolloutState, embed, new_state, roll_chunk
from causalcine_jax.story import ResolvedShot


@dataclass(frozen=True)
class Chunk:
    """A chunk of the film.

    frames     9 (the first chunk) or 12 video frames; 4 n, and 4 n - 3 in the first, for chunks of
               n latent frames
    index      place among the film's chunks, from 0
    shot       the shot it belongs to, on the chunk grid
    retrieved  per layer, the film's latent frames that memory retrieved, newest first; -1 for none
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


@dataclass(frozen=True)
class Moves:
    """How a director makes chunks: the functions of `state`, or replacements for them.

    pool_size  latent frames of the film's pool (`pool.pool_size`); None where it has no pool
    """

    pool_size: Callable[[Model, FilmSettings, int | None], int | None] = pool_size
    start: Callable[[Model, FilmSettings], RolloutState] = new_state
    embed: Callable[..., object] = embed
    roll: Callable[..., tuple[RolloutState, ChunkOutput]] = roll_chunk
