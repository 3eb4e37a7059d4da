"""Frames out of a pool on a TPU: a kernel that copies just those that a field holds.

XLA for TPUs slices a layer's whole pool before it gathers from it, and turns the whole pool beforehand into the layout that the rotation of keys would like:
hundreds of GB per chunk where a few are meant. A kernel's arguments stay as they lie.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Int, Shaped

from causalcine_jax.models.attention.splash import LANES

SUBLANES = 8  # a TPU's register has so many rows, and LANES columns; it is filled by halves and quarters too
BLOCK = (
    2**20
)  # bytes at most that are copied at once: two on their way in and two out fit on the chip


def reads_in_place(head_dim: int) -> bool:
    """Whether the kernel takes a pool as a TPU lays it out. Narrower heads have tokens for columns there: it would be turned round first, as a whole."""
    return head_dim % LANES == 0


def gather_frames(
    stored: Shaped[jax.Array, "n p h d"], rows: Int[jax.Array, " r"], *, interpret: bool = False
) -> Shaped[jax.Array, "r p h d"]:
    """`stored[rows]`, 0 <= rows < n. `interpret` runs it without a TPU."""
    # As a TPU lays it out, heads before tokens unless heads fill registers by themselves (seen in compiled programs): then these swaps move nothing.
    swap = stored.shape[2] not in (SUBLANES // 4, SUBLANES // 2) and stored.shape[2] % SUBLANES != 0
    stored = jnp.swapaxes(stored, 1, 2) if swap else stored
    _, outer, inner, dim = stored.shape
    at_once = _largest_divisor(outer, BLOCK // (inner * dim * stored.dtype.itemsize))
    block = (1, at_once, inner, dim)
    frames = pl.pallas_call(
        _copy,
        out_shape=jax.ShapeDtypeStruct((len(rows), outer, inner, dim), stored.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(len(rows), outer // at_once),
            in_specs=[pl.BlockSpec(block, lambda i, part, rows: (rows[i], part, 0, 0))],
            out_specs=pl.BlockSpec(block, lambda i, part, rows: (i, part, 0, 0)),
        ),
        interpret=interpret,
        name="gather_frames",  # by which planning/hlo/traffic.py knows it
    )(rows.astype(jnp.int32), stored)
    return jnp.swapaxes(frames, 1, 2) if swap else frames


def _copy(rows, source, target):
    target[...] = source[...]


def _largest_divisor(number: int, limit: int) -> int:
    return next(
        divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0
    )
