"""Self-attention of a pass's segments, each over its own tokens and those of its receptive field.

    choose the field -> gather its frames from the history -> rotate to their positions -> attend

One dense call per segment, with a length and no mask. On a CPU one kernel does all segments at once
(packed_fields.py), and a single segment takes a field that grows with the film (growing_field.py).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.models.attention.growing_field import attend_smallest
from causalcine_jax.models.attention.packed_fields import attend_fields, fits
from causalcine_jax.models.cache.history import History, take
from causalcine_jax.models.cache.quantised import restored, values_of
from causalcine_jax.models.receptive_field import ReceptiveField, choose_fields
from causalcine_jax.models.rope import rotate, rotation
from causalcine_jax.parallel.platform import platform

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SharedInputs:
    """The inputs that every layer, film and head of a pass has in common.

    chunk_index   each segment's chunk in the film
    own_rotation  cosines and sines of the segment's own frames
    grid          rows and columns of a frame's tokens
    clean         how many segments, from the first, are the history of the others
    """

    chunk_index: Int[Array, " s"]
    own_rotation: tuple[Float[Array, "c p e"], Float[Array, "c p e"]]
    grid: tuple[int, int] = dataclasses.field(metadata=_STATIC)
    clean: int = dataclasses.field(metadata=_STATIC)
    config: PassConfig = dataclasses.field(metadata=_STATIC)

    def under(self, memory: MemoryConfig) -> "SharedInputs":
        """Returns a copy with another rule for the fields."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, memory=memory))


def unbounded(memory: MemoryConfig, pool_frames: int, chunk_frames: int) -> MemoryConfig:
    """The field of a clean chunk under route_clean=False: every earlier chunk, in film order."""
    chunks = max(1, pool_frames // chunk_frames)
    return dataclasses.replace(memory, policy="none", window_chunks=chunks)


def attend_segments(
    q: Float[Array, "b s t h e"],
    k: Float[Array, "b s t h e"],
    v: Float[Array, "b s t h e"],
    past: History,
    preset: ReceptiveField | None,
    shared: SharedInputs,
    prompt_key: Float[Array, "b s h e"] | None = None,
):
    """Attention of all segments; t = C * P tokens each.

    Args:
      preset: fields to use instead of choosing them.
      prompt_key: mean key of each segment's prompt, for a policy that scores by it.

    Returns:
      (attended [b, s, t, h, e], fields [s, b, ...], what a segment retrieved from a pool in host
      memory). With route_clean=False the fields are those of the noisy segments.
    """
    memory = shared.config.memory
    one_rule = memory.route_clean or shared.clean == 0
    if q.shape[1] > 1 and one_rule and fits(q, past, memory):
        choose = lambda q, index, prompt_key: choose_fields(
            q, prompt_key, past.descriptors, past.frame, index, memory, shared.config.chunk_frames
        )
        if preset is None:
            preset = jax.vmap(choose, in_axes=(1, 0, 1))(q, shared.chunk_index, prompt_key)
        return attend_fields(q, k, v, past, preset, shared.grid), preset, None
    *by_segment, prompt_key = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (q, k, v, prompt_key))
    operands = (*by_segment, shared.chunk_index, preset, prompt_key)
    if one_rule:
        out, field, taken = _each(operands, past, shared)
    elif preset is not None:
        raise UsageError(
            "fields can be given only with route_clean=True: "
            "a packed pass's clean and noisy fields differ in size otherwise"
        )
    else:
        everything = unbounded(memory, past.frame.shape[0], shared.config.chunk_frames)
        part = lambda which: jax.tree.map(lambda a: a[which], operands)
        clean_out, *_ = _each(part(slice(shared.clean)), past, shared.under(everything))
        noisy_out, field, taken = _each(part(slice(shared.clean, None)), past, shared)
        out = jnp.concatenate([clean_out, noisy_out])
    return jnp.moveaxis(out, 0, 1), field, taken


def _each(operands, past: History, shared: SharedInputs):
    """Calls `_attend_segment` for the segments in `operands` [s, ...], batched or in a loop."""
    segments, config = operands[3].shape[0], shared.config
    attend = lambda segment, alone=False: _attend_segment(segment, past, shared, alone)
    if segments == 1:  # streaming: no loop around one segment
        out = attend(jax.tree.map(lambda a: a[0], operands), alone=True)
        return jax.tree.map(lambda a: a[None], out)
    if not config.segments_at_once or config.segments_at_once >= segments:
        return jax.vmap(attend)(operands)
    # Without the checkpoint, the loop's backward pass would keep every iteration's gathered fields.
    body = jax.checkpoint(attend, prevent_cse=False) if config.remat else attend
    return jax.lax.map(body, operands, batch_size=config.segments_at_once)


def _attend_segment(operands, past: History, shared: SharedInputs, alone: bool):
    """One segment: choose its field, gather and rotate the frames, attend. q, k, v [b, t, h, e].

    Args:
      alone: no other segment is batched with this one.

    Returns:
      (attended, field, values of k and v [b, m, p, h, e] that memory retrieved from a pool in host
      memory).
    """
    q, k, v, chunk_index, preset, prompt_key = operands
    memory, chunk_frames = shared.config.memory, shared.config.chunk_frames
    batch, length, num_heads, head_dim = q.shape
    per_frame = lambda y: y.reshape(batch, chunk_frames, -1, num_heads, head_dim)
    flat = lambda y: y.reshape(batch, -1, num_heads, head_dim)
    q_rotated = flat(rotate(per_frame(q), *shared.own_rotation))
    k_rotated = flat(rotate(per_frame(k), *shared.own_rotation))
    if past.frame.shape[0] == 0:
        return attention(q_rotated, k_rotated, v), None, None
    field = preset
    if field is None:
        field = choose_fields(
            q, prompt_key, past.descriptors, past.frame, chunk_index, memory, chunk_frames
        )

    def attend(frames: int):
        """Attends to the field's first `frames` frames; its length must not exceed that."""
        part = field.first(frames)
        taken = take(past, part)
        k_past, v_past = (restored(each) for each in taken)
        k_past = rotate(k_past, *rotation(part.position, shared.grid, head_dim))
        keys = jnp.concatenate([k_rotated, flat(k_past).astype(k.dtype)], axis=1)
        values = jnp.concatenate([v, flat(v_past).astype(v.dtype)], axis=1)
        kept = None
        if past.copied is not None:
            kept = tuple(values_of(x)[:, memory.window_chunks * chunk_frames :] for x in taken)
        tokens = (chunk_frames + part.length) * (length // chunk_frames)
        return attention(q_rotated, keys, values, tokens), kept

    size = field.slot.shape[-1]
    if not size:  # no window and no memory: a chunk sees itself alone
        taken = None if past.copied is None else tuple(map(values_of, take(past, field)))
        return attention(q_rotated, k_rotated, v), field, taken
    in_place = past.layer is not None and past.copied is None
    grows = platform() == "cpu" and alone and in_place
    out, kept = attend_smallest(field.length, size, chunk_frames, attend) if grows else attend(size)
    return out, field, kept
