"""Gathers a field's frames from a pool on a TPU: a kernel that copies only those frames.

XLA for TPUs slices a layer's whole pool before it gathers from it. It also first converts the whole
pool to the layout that the keys' rotation prefers: hundreds of GB per chunk instead of a few. A
kernel's arguments keep their layout.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Int, Shaped

from causalcine_jax.models.attention.splash import LANES

# Rows of a TPU's register, which has LANES columns; half and quarter registers can be filled too.
SUBLANES = 8
# Largest copy in bytes: two on their way in and two on their way out fit on the chip.
BLOCK = 2**20


def reads_in_place(head_dim: int) -> bool:
    """Whether the kernel takes a pool in the layout that a TPU gives it.

    With narrower heads, tokens are the columns of that layout, and XLA would first transpose the
    whole pool.
    """
    return head_dim % LANES == 0


def gather_frames(
    stored: Shaped[jax.Array, "n p h d"], rows: Int[jax.Array, " r"], *, interpret: bool = False
) -> Shaped[jax.Array, "r p h d"]:
    """Returns `stored[rows]`, 0 <= rows < n. `interpret` runs it without a TPU."""
    # A TPU's layout has heads before tokens, unless heads fill registers by themselves (seen in
    # compiled programs). In that layout these swaps move nothing.
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
        name="gather_frames",  # planning/hlo/traffic.py finds the kernel by this name
    )(rows.astype(jnp.int32), stored)
    return jnp.swapaxes(frames, 1, 2) if swap else frames


def _copy(rows, source, target):
    target[...] = source[...]


def _largest_divisor(number: int, limit: int) -> int:
    return next(
        divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0
    )
