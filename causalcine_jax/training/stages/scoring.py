"""Films under noise, and what a denoiser says of a window of their chunks: the common ground of distribution matching and the GAN.

A film is noised to one time. Then a chunk's history is either the film's clean chunks, as in the denoiser's own training (clean), or its noisy
ones, as everything is in one noisy stream (noisy_causal).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import noisy_causal, teacher_forced


def score_times(
    key: Array, films: int, shift: float, t_min: float, t_max: float
) -> Float[Array, " b"]:
    """One time per film: a position from each equal part of the schedule, bent by `shift`, clamped to t_min..t_max.

    Self-Forcing (`model/dmd.py`) draws positions independently; so drawn they are as uniform, and a batch's gradient varies less.
    """
    return jnp.clip(flow.stratified_times(key, films, shift), t_min, t_max)


def window(
    film: Float[Array, "b f h w c"], start: int | Int[Array, ""], frames: int, chunk_frames: int
) -> Float[Array, "b g h w c"]:
    """The `frames` frames of a film (or of its chunks' features) from chunk `start` on."""
    return (
        film
        if frames == film.shape[1]
        else jax.lax.dynamic_slice_in_dim(film, start * chunk_frames, frames, axis=1)
    )


def with_window(
    film: Float[Array, "b f h w c"],
    part: Float[Array, "b g h w c"],
    start: int | Int[Array, ""],
    chunk_frames: int,
) -> Float[Array, "b f h w c"]:
    """The film with `part` in place of its frames from chunk `start` on."""
    return (
        part
        if part.shape == film.shape
        else jax.lax.dynamic_update_slice_in_dim(film, part, start * chunk_frames, axis=1)
    )


def window_velocity(
    model: Transformer,
    clean: Float[Array, "b f h w c"],
    noisy: Float[Array, "b f h w c"],
    t: Float[Array, " b"],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    *,
    start: int | Int[Array, ""],
    frames: int,
    from_noisy: bool,
    memory: MemoryConfig,
    chunk_frames: int,
    features: tuple[int, ...] = (),
    remat: int = 0,
    segments_at_once: int | None = None,
):
    """Velocity of the `frames` frames of `noisy` from chunk `start` on (or velocity and features), after the film's noisy or clean chunks.

    No gradient passes through `clean`. Through `noisy` it passes, as history too where it is one.
    """
    how = {
        "memory": memory,
        "chunk_frames": chunk_frames,
        "features": features,
        "remat": remat,
        "segments_at_once": segments_at_once,
    }
    if not from_noisy:
        seen = window(noisy, start, frames, chunk_frames)
        return teacher_forced(
            model, jax.lax.stop_gradient(clean), seen, t, text, shot_of_chunk, first=start, **how
        )
    out = noisy_causal(model, noisy, t, text, shot_of_chunk, **how)
    if not features:
        return window(out, start, frames, chunk_frames)
    velocity, taps = out
    return window(velocity, start, frames, chunk_frames), tuple(
        window(tap, start, frames // chunk_frames, 1) for tap in taps
    )
