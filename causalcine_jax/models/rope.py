"""Rotary positions over (time, height, width), to float64 accuracy.

Source: Wan2.1 `wan/modules/model.py` rope_apply. Channel pairs are interleaved (x[2i], x[2i+1]).

A frame's position in time is how many frames it is behind the newest frame of the attending chunk.
The chunk's own frames have positions C-1..0, and history follows. RoPE depends only on differences,
so counting back from the chunk gives the same scores as Wan's absolute indices. The query's
rotation never changes, and a history of any length leaves no gap.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BASE = 10000.0
# Positions are split as coarse * FINE + fine: two small exact tables instead of a long one.
FINE = 512
COARSE = 512


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that rotate with (time, height, width); their sum is head_dim."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def _frequencies(dim: int) -> np.ndarray:
    return BASE ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)


@functools.cache
def _time_tables(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    angle = np.outer(np.arange(FINE), _frequencies(dim))
    coarse = FINE * np.outer(np.arange(COARSE), _frequencies(dim))
    cos, sin = (lambda a: np.cos(a).astype(np.float32)), (lambda a: np.sin(a).astype(np.float32))
    return cos(coarse), sin(coarse), cos(angle), sin(angle)


@functools.cache
def _space_angles(height: int, width: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the height and width channels, [P, pairs]."""
    _, dim_h, dim_w = axis_dims(head_dim)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angle = np.concatenate(
        [
            np.outer(rows.ravel(), _frequencies(dim_h)),
            np.outer(columns.ravel(), _frequencies(dim_w)),
        ],
        axis=1,
    )
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotation(
    positions: Int[Array, "*r"], grid: tuple[int, int], head_dim: int
) -> tuple[Float[Array, "*r p c"], Float[Array, "*r p c"]]:
    """cos and sin of every token of frames at `positions` in time, each in 0..FINE*COARSE-1.

    c = head_dim / 2 pairs; P = grid height * width.
    """
    height, width = grid
    dim_t = axis_dims(head_dim)[0]
    cos_coarse, sin_coarse, cos_fine, sin_fine = (jnp.asarray(t) for t in _time_tables(dim_t))
    coarse, fine = positions // FINE, positions % FINE
    a, b, c, d = cos_coarse[coarse], sin_coarse[coarse], cos_fine[fine], sin_fine[fine]
    # Positions count backwards, hence the minus sign of the sine.
    cos_t, sin_t = a * c - b * d, -(a * d + b * c)
    tokens = height * width
    cos_s, sin_s = _space_angles(height, width, head_dim)

    def join(time, space):
        time = jnp.broadcast_to(time[..., None, :], (*positions.shape, tokens, dim_t // 2))
        return jnp.concatenate(
            [time, jnp.broadcast_to(space, (*positions.shape, *space.shape))], axis=-1
        )

    return join(cos_t, cos_s), join(sin_t, sin_s)


def rotate(
    x: Float[Array, "*b r p h d"], cos: Float[Array, "*#b r p c"], sin: Float[Array, "*#b r p c"]
) -> Float[Array, "*b r p h d"]:
    """Rotates each interleaved channel pair of x by its token's angle, in float32.

    The result has x's dtype. Films may share the angles.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    return (
        jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        .reshape(x.shape)
        .astype(x.dtype)
    )
