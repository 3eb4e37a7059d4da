"""Films under noise, and what a denoiser says of their last chunks: the common ground of distribution matching and the GAN.

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


def score_times(key: Array, films: int, shift: float, t_min: float, t_max: float) -> Float[Array, "b"]:
    """One time per film: uniform positions of the schedule bent by `shift`, clamped to t_min..t_max (Self-Forcing `model/dmd.py`)."""
    return jnp.clip(flow.sample_time(key, (films,), shift), t_min, t_max)


def last_chunks(
    model: Transformer,
    clean: Float[Array, "b f h w c"],
    noisy: Float[Array, "b f h w c"],
    t: Float[Array, "b"],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    *,
    frames: int,
    from_noisy: bool,
    memory: MemoryConfig,
    chunk_frames: int,
    features: tuple[int, ...] = (),
    remat: bool = False,
):
    """Velocity of the last `frames` frames of `noisy` (or velocity and features), after the film's noisy or clean chunks.

    No gradient passes through `clean`. Through `noisy` it passes, as history too where it is one.
    """
    how = {"memory": memory, "chunk_frames": chunk_frames, "features": features, "remat": remat}
    if from_noisy:
        return noisy_causal(model, noisy, t, text, shot_of_chunk, last=frames // chunk_frames, **how)
    return teacher_forced(model, jax.lax.stop_gradient(clean), noisy[:, -frames:], t, text, shot_of_chunk, **how)
