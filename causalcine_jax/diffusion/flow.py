"""The straight path between data and noise, and the training times drawn on it.

    x_t = (1 - sigma) x0 + sigma noise,  sigma = t / 1000:  t = 0 is data, t = 1000 is noise
    v = noise - x0, the velocity, which most networks predict;  x0 = x_t - sigma v

`shift` bends a uniform schedule toward noise (Wan2.1 uses 5). `sample_time` draws training times
from the bent schedule.

t is in 0..1000 everywhere: a scalar, [B] (one per film) or [B, N] (one per chunk). Latents are
[B, F, h, w, C].
"""

import functools
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.errors import check_choice
from causalcine_jax.utils.arrays import AnyArray

TRAIN_TIMES = 1000
POWERS = {"sigma": 1, "x0": 2}  # loss weights that are powers of sigma
LOSS_WEIGHTS = ("none", "bsmntw", *POWERS)


def per_frame(t: Float[AnyArray, "*n"] | float, frames: int) -> Float[Array, "b f"]:
    """Repeats times over `frames` latent frames: [B, F], or [1, F] for a scalar.

    Args:
      t: a scalar, [B], or [B, N] for N equal chunks.

    Raises:
      ValueError: the frames do not divide into N chunks.
    """
    t = jnp.asarray(t, jnp.float32)
    if t.ndim > 2:
        raise ValueError(f"t must be a scalar, [B] or [B, N], not of shape {t.shape}")
    chunks = jnp.atleast_1d(t)[:, None] if t.ndim < 2 else t
    if frames % chunks.shape[1]:
        raise ValueError(
            f"{frames} frames do not divide into the {chunks.shape[1]} chunks of t {t.shape}"
        )
    return einops.repeat(chunks, "b n -> b (n c)", c=frames // chunks.shape[1])


def add_noise(
    x0: Float[Array, "b f h w c"], noise: Float[Array, "b f h w c"], t
) -> Float[Array, "b f h w c"]:
    """x_t, the point at time t on the path from `x0` to `noise`; float32."""
    sigma = _sigma(t, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity_target(x0: Float[Array, "*b"], noise: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """dx_t/dsigma of the path: the network's training target."""
    return noise - x0


def x0_from_velocity(
    xt: Float[Array, "b f h w c"], velocity: Float[Array, "b f h w c"], t
) -> Float[Array, "b f h w c"]:
    """x0 predicted by `velocity` at (`xt`, t); float32 whatever the network's dtype."""
    return xt - _sigma(t, xt) * velocity


def shifted(u, s: float):
    """Bends schedule positions `u` in 0..1 toward 1 (noise) by the factor `s`; numpy or jax.

    s = 1 changes nothing.
    """
    return s * u / (1 + (s - 1) * u)


def sample_time(key, shape: tuple[int, ...], s: float) -> Float[Array, "*shape"]:
    """Training times in (0, 1000]: uniform positions, shifted by `s`. Shape (), [B] or [B, N]."""
    return TRAIN_TIMES * shifted(1 - jax.random.uniform(key, shape), s)


def stratified_times(key, count: int, s: float) -> Float[Array, " b"]:
    """`count` training times, one from each equal part of the schedule, in random order.

    Each is distributed as by `sample_time`; their mean varies less.
    """
    key_order, key_offset = jax.random.split(key)
    offset = jax.random.uniform(key_offset, (count,))
    u = (jax.random.permutation(key_order, count) + offset) / count
    return TRAIN_TIMES * shifted(1 - u, s)


def loss_weight(t: Float[Array, "*n"], name: str = "none", *, s: float = 5.0) -> Float[Array, "*n"]:
    """The weight of a squared error at time t; its mean over the schedule shifted by `s` is 1.

    none      1 everywhere
    bsmntw    a bell around t = 500, lowered to 0 at t = 1000: the weight of the public causal Wan
              forks (Self-Forcing `utils/scheduler.py`), as a function of t, not a table lookup
    sigma     grows with sigma
    x0        grows with sigma^2: the squared error of the velocity becomes that of x0
    """
    check_choice("loss weight", name, LOSS_WEIGHTS)
    if name == "none":
        return jnp.ones_like(t)
    if name in POWERS:
        return (t / TRAIN_TIMES) ** POWERS[name] / _mean_power(POWERS[name], s)
    lowest, scale = _bell_constants(s)
    return jnp.maximum(_bell(t, jnp) - lowest, 0.0) * scale


def _sigma(t, latents: Float[Array, "b f h w c"]) -> Float[Array, "#b f 1 1 1"]:
    return per_frame(t, latents.shape[1])[:, :, None, None, None] / TRAIN_TIMES


def _bell(t, xp):
    return xp.exp(-2 * ((t - TRAIN_TIMES / 2) / TRAIN_TIMES) ** 2)


@functools.lru_cache(maxsize=16)
def _mean_power(power: int, s: float) -> float:
    """The mean of sigma^power over the schedule shifted by `s`."""
    return float(np.mean(_shifted(s) ** power))


def _shifted(s: float) -> np.ndarray:
    """Sigmas of the schedule shifted by `s`, from 1 down, without 0."""
    return shifted(np.linspace(1.0, 0.0, TRAIN_TIMES + 1)[:-1], s)


@functools.lru_cache(maxsize=16)
def _bell_constants(s: float) -> tuple[float, float]:
    """The bell's minimum over the shifted schedule, and the factor that makes its mean 1."""
    bell = _bell(TRAIN_TIMES * _shifted(s), np)
    lowest = float(bell.min())
    return lowest, TRAIN_TIMES / math.fsum(bell - lowest)
