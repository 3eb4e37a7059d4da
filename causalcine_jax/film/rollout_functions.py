"""How a director makes chunks."""

from collections.abc import Callable
from dataclasses import dataclass

from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import pool_size
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import ChunkOutput, RolloutState, embed, new_state, roll_chunk


@dataclass(frozen=True)
class RolloutFunctions:
    """How a director makes chunks: the functions of `state`, or replacements for them.

    pool_size  latent frames of the film's pool (`pool.pool_size`); None where it has no pool
    """

    pool_size: Callable[[Model, FilmSettings, int | None], int | None] = pool_size
    start: Callable[[Model, FilmSettings], RolloutState] = new_state
    embed: Callable[..., object] = embed
    roll: Callable[..., tuple[RolloutState, ChunkOutput]] = roll_chunk
