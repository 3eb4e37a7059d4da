"""A packed pass's self-attention on the CPU: one kernel call (cpu/fields.h), forward and backward.

    q, k, v of all segments, a pool, the fields --attend_fields--> attention output

The kernel gathers, rotates and attends in the caches; XLA would write each step to memory. Its cost
follows the fields' lengths. Where jax's setting asks for products in bfloat16 and the processor
has them, factors are rounded and summed in float32. models/attention/segments.py uses the kernel
where `fits` is true, and otherwise attends segment by segment.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.models.attention.kept import ATTENDED
from causalcine_jax.models.cache.history import History
from causalcine_jax.models.cpu.kernels import (
    FIELDS,
    FIELDS_BACKWARD,
    differentiates,
    rounds_products,
)
from causalcine_jax.models.receptive_field import ReceptiveField
from causalcine_jax.models.rope import rotation
from causalcine_jax.parallel.platform import platform


class _Operands(NamedTuple):
    """The kernel's inputs, in its order. R is the field's size."""

    q: Float[Array, "b s t h e"]
    k: Float[Array, "b s t h e"]
    v: Float[Array, "b s t h e"]
    pool_k: Float[Array, "b f p h e"]
    pool_v: Float[Array, "b f p h e"]
    slot: Int[Array, "s b r"]
    length: Int[Array, "s b"]
    cos: Float[Array, "positions p e"]
    sin: Float[Array, "positions p e"]


def fits(q: Float[Array, "b s t h e"], past: History, memory: MemoryConfig) -> bool:
    """Whether the kernel can compute this pass's attention here."""
    if (
        platform() != "cpu"
        or memory.positions != "block_relative"
        or past.layer is not None
        or past.frame.shape[0] == 0
    ):
        return False
    dtypes = [x.dtype if isinstance(x, jax.Array) else None for x in (q, past.k, past.v)]
    return dtypes == [jnp.float32] * 3 and differentiates(q.dtype, q.shape[-1])


def attend_fields(
    q: Float[Array, "b s t h e"],
    k: Float[Array, "b s t h e"],
    v: Float[Array, "b s t h e"],
    past: History,
    field: ReceptiveField,
    grid: tuple[int, int],
) -> Float[Array, "b s t h e"]:
    """Attention of every segment over its own tokens and its field's frames [s, b, ...].

    All are rotated to their positions here. Call it only where `fits` is true.
    """
    assert isinstance(past.k, Array) and isinstance(past.v, Array)
    tokens, head_dim = grid[0] * grid[1], q.shape[-1]
    positions = q.shape[2] // tokens + field.slot.shape[2]
    cos, sin = (
        jnp.repeat(table, 2, axis=-1)
        for table in rotation(jnp.arange(positions, dtype=jnp.int32), grid, head_dim)
    )
    # A channel's factor of the other channel in its pair.
    sin = sin * jnp.tile(jnp.array([-1.0, 1.0], jnp.float32), head_dim // 2)
    # Inside shard_map all operands must vary along the same mesh axes. Adding 0 * q makes them vary
    # as q does.
    nothing = 0 * q[0, 0, 0, 0, 0]
    whole = nothing.astype(jnp.int32)
    return _attend(
        _Operands(
            q,
            k,
            v,
            past.k,
            past.v,
            slot=field.slot + whole,
            length=field.length + whole,
            cos=cos + nothing,
            sin=sin + nothing,
        )
    )


@jax.custom_vjp
def _attend(operands: _Operands) -> Float[Array, "b s t h e"]:
    return _forward(operands)[0]


def _forward(operands: _Operands):
    q = operands.q
    logs = jnp.moveaxis(q[..., 0], 3, 1)  # [b, h, s, t]: gives the shape, and the mesh axes
    call = jax.ffi.ffi_call(FIELDS, (q, logs))
    return tuple(call(*operands, rounded=rounds_products()))


def _forward_kept(operands: _Operands):
    out, logs = checkpoint_name(_forward(operands), ATTENDED)
    return out, (operands, out, logs)


def _backward(kept, gradient):
    operands, out, logs = kept
    call = jax.ffi.ffi_call(FIELDS_BACKWARD, operands[:5])
    gradients = call(*operands, out, logs, gradient, rounded=rounds_products())
    return (_Operands._make((*gradients, None, None, None, None)),)


_attend.defvjp(_forward_kept, _backward)
