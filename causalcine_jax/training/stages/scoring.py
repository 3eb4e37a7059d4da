"""Velocities of a window of a noised film's chunks, for distribution matching and the GAN.

A film is noised to one time. A chunk's history is then the film's clean chunks, as in the
denoiser's own training (clean). Or it is the noisy chunks, in one noisy stream (noisy_causal).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import noisy_causal, teacher_forced


def score_times(
    key: Array,
    films: int,
    shift: float,
    t_min: float,
    t_max: float,
    highest: float = flow.TRAIN_TIMES,
) -> Float[Array, " b"]:
    """One time per film, stratified over the schedule, bent by `shift`, clamped to t_min..t_max.

    The schedule ends at `highest`.
    Self-Forcing (`model/dmd.py`) draws positions independently. Stratified positions are as
    uniform, and a batch's gradient varies less.
    """
    t = flow.stratified_times(key, films, shift) * (highest / flow.TRAIN_TIMES)
    return jnp.clip(t, t_min, t_max)


@dataclass(frozen=True)
class FilmSlice:
    """A part of a film: its `frames` latent frames from chunk `start` on."""

    start: int | Int[Array, ""]
    frames: int
    chunk_frames: int

    @property
    def chunks(self) -> int:
        return self.frames // self.chunk_frames

    def of(self, film: Float[Array, "b f h w c"]) -> Float[Array, "b g h w c"]:
        """The part's frames of a film."""
        return _slice(film, self.start * self.chunk_frames, self.frames)

    def of_chunks(self, features: Float[Array, "b n t d"]) -> Float[Array, "b m t d"]:
        """The part's chunks of what a film's chunks have, such as features."""
        return _slice(features, self.start, self.chunks)

    def put(
        self, film: Float[Array, "b f h w c"], part: Float[Array, "b g h w c"]
    ) -> Float[Array, "b f h w c"]:
        """The film with `part` in place of its frames."""
        if part.shape == film.shape:
            return part
        return jax.lax.dynamic_update_slice_in_dim(
            film, part, self.start * self.chunk_frames, axis=1
        )


def _slice(a: Array, start, size: int) -> Array:
    whole = size == a.shape[1]
    return a if whole else jax.lax.dynamic_slice_in_dim(a, start, size, axis=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noised:
    """Films, the same films at noise time t, and t."""

    clean: Float[Array, "b f h w c"]
    noisy: Float[Array, "b f h w c"]
    t: Float[Array, " b"]


def slice_velocity(
    model: Transformer,
    films: Noised,
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    part: FilmSlice,
    passes: PassConfig,
    *,
    from_noisy: bool,
):
    """Velocity (or velocity and features) of the window's noisy frames, given their history.

    No gradient passes through the clean films. It passes through the noisy films, also as history.
    """
    if not from_noisy:
        clean = jax.lax.stop_gradient(films.clean)
        return teacher_forced(
            model,
            clean,
            part.of(films.noisy),
            films.t,
            text,
            shot_of_chunk,
            passes,
            first=part.start,
        )
    out = noisy_causal(model, films.noisy, films.t, text, shot_of_chunk, passes)
    if not passes.features:
        return part.of(out)
    velocity, taps = out
    return part.of(velocity), tuple(part.of_chunks(tap) for tap in taps)
