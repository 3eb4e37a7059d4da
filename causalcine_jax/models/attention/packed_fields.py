"""A packed pass's self-attention on the CPU by a kernel of our own (cpu/fields.h): gathers, rotates and attends in one call, forward and backward.

    q, k, v of all segments, a pool, the fields --attend_fields--> what was attended

What XLA would gather, rotate and score is written to memory, segment by segment. The kernel keeps it in the caches, and its cost follows the fields'
lengths. models/packed.py takes it where `fits` says so; elsewhere it attends segment by segment.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.models.cache.history import History
from causalcine_jax.models.cpu.kernels import FIELDS, FIELDS_BACKWARD, differentiates
from causalcine_jax.models.receptive_field import ReceptiveField, receptive_field
from causalcine_jax.models.rope import rotation
from causalcine_jax.parallel.platform import platform

ATTENDED = "attended"  # what the backward pass needs of the forward beside its operands, by its name for jax.checkpoint


def fits(q: Float[Array, "b s t h e"], past: History, memory: MemoryConfig) -> bool:
    """Whether this pass can be attended by the kernel here."""
    if (
        platform() != "cpu"
        or memory.positions != "block_relative"
        or past.layer is not None
        or past.time.shape[0] == 0
    ):
        return False
    dtypes = [x.dtype if isinstance(x, jax.Array) else None for x in (q, past.k, past.v)]
    return dtypes == [jnp.float32] * 3 and differentiates(q.dtype, q.shape[-1])


def chosen(
    q: Float[Array, "b t h e"],
    past: History,
    chunk_index: Int[Array, ""],
    memory: MemoryConfig,
    chunk_frames: int,
) -> ReceptiveField:
    """The fields [b, ...] of one segment of a batch, given its unrotated queries."""
    choose = lambda query, keys: receptive_field(
        query, keys, past.time, chunk_index, memory, chunk_frames
    )
    return jax.vmap(choose)(jnp.mean(q.astype(jnp.float32), axis=1), past.descriptors)


def attend_fields(
    q: Float[Array, "b s t h e"],
    k: Float[Array, "b s t h e"],
    v: Float[Array, "b s t h e"],
    past: History,
    field: ReceptiveField,
    grid: tuple[int, int],
) -> Float[Array, "b s t h e"]:
    """Every segment's attention over its own tokens and those of its field's frames [s, b, ...], all rotated to their slots here. Only where it `fits`."""
    tokens, head_dim = grid[0] * grid[1], q.shape[-1]
    slots = q.shape[2] // tokens + field.frame.shape[2]
    cos, sin = (
        jnp.repeat(table, 2, axis=-1)
        for table in rotation(jnp.arange(slots, dtype=jnp.int32), grid, head_dim)
    )
    sin = sin * jnp.tile(
        jnp.array([-1.0, 1.0], jnp.float32), head_dim // 2
    )  # what a channel has of the other of its pair
    # In an island of a mesh all operands must vary along the same axes: adding none of q makes them vary as q does.
    nothing = 0 * q[0, 0, 0, 0, 0]
    whole = nothing.astype(jnp.int32)
    return _attend(
        q,
        k,
        v,
        past.k,
        past.v,
        field.frame + whole,
        field.length + whole,
        cos + nothing,
        sin + nothing,
    )


@jax.custom_vjp
def _attend(q, k, v, pool_k, pool_v, frame, length, cos, sin):
    return _forward(q, k, v, pool_k, pool_v, frame, length, cos, sin)[0]


def _forward(q, *others):
    logs = jnp.moveaxis(q[..., 0], 3, 1)  # [b, h, s, t]: that shape, and how it varies over a mesh
    return tuple(jax.ffi.ffi_call(FIELDS, (q, logs))(q, *others))


def _forward_kept(*operands):
    out, logs = checkpoint_name(_forward(*operands), ATTENDED)
    return out, (operands, out, logs)


def _backward(kept, gradient):
    operands, out, logs = kept
    return (
        *jax.ffi.ffi_call(FIELDS_BACKWARD, operands[:5])(*operands, out, logs, gradient),
        None,
        None,
        None,
        None,
    )


_attend.defvjp(_forward_kept, _backward)
