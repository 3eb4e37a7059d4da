"""One layer's history, and the frames that a field takes from it.

    History + ReceptiveField --take--> k, v of the field's frames, on the device

Keys and values of a pool are on the device or in host memory. In host memory, a film's history may
exceed the accelerator's. The device then holds all that routing reads, and the frames that a layer
will most likely want: those of the newest chunks, and those that memory retrieved for the last
commit. Any other frame is copied when a field holds it. The copy takes this layer's part as it is
stored, one asynchronous copy each for keys and values. The numbers are the same in either place, so
the film is too.

A scan over layers slices its inputs, which copies them on a TPU and in host memory. There every
layer gets the whole pool.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int, Shaped

from causalcine_jax.models.cache.quantised import Frames, Quantised
from causalcine_jax.models.gather import gather
from causalcine_jax.models.receptive_field import ReceptiveField
from causalcine_jax.parallel.platform import platform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PoolFrames:
    """One layer's frames of a pool that is passed whole.

    stored  values of all layers' frames
    scale   of this layer's frames, where they are quantised
    copies  with `stored` in host memory: values of this layer's frames that are also on the device
    """

    stored: Shaped[Array, "l b f p h d"]
    scale: Float[Array, "b f h"] | None
    copies: Shaped[Array, "b n p h d"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """One layer's history frames.

    k, v         unrotated keys and values
    descriptors  of each frame's parts
    frame        each one's index in the film (-1: empty)
    layer        of a pool that is passed whole: which layer this is
    copied       of a pool in host memory: indices in the film of the frames also on the device
    """

    k: Frames | PoolFrames  # [b, f, p, h, d]
    v: Frames | PoolFrames
    descriptors: Float[Array, "b f g h d"]
    frame: Int[Array, " f"]
    layer: Int[Array, ""] | None = None
    copied: Int[Array, "b n"] | None = None

    def whole_pools(self) -> tuple[PoolFrames, PoolFrames]:
        """k and v of a pool that is passed whole: `layer` is set."""
        assert isinstance(self.k, PoolFrames) and isinstance(self.v, PoolFrames)
        return self.k, self.v


def take(past: History, field: ReceptiveField) -> tuple[Frames, Frames]:
    """Returns keys and values [b, r, p, h, d] of the field's frames, in their stored form.

    Entries beyond the field's length are arbitrary but finite.
    """
    if past.layer is None:
        gathered = lambda frames: jax.tree.map(lambda stored: gather(stored, field.slot), frames)
        return gathered(past.k), gathered(past.v)
    k, v = _picked(past, field) if past.copied is None else _brought_over(past, field)
    stored = lambda value, scale: (
        value if scale is None else Quantised(value, gather(scale, field.slot))
    )
    pool_k, pool_v = past.whole_pools()
    return stored(k, pool_k.scale), stored(v, pool_v.scale)


def _picked(past: History, field: ReceptiveField) -> list[Shaped[Array, "b r p h d"]]:
    """Gathers values of the field's frames from those of all layers."""
    pick = lambda stored, rows: stored.at[rows].get(mode="promise_in_bounds")
    if platform() == "tpu":
        # Imported here because it loads Pallas for TPUs.
        from causalcine_jax.models.cache.frame_gather import gather_frames as pick

    rows, shape = _rows_of(past, field.slot), field.slot.shape
    values = (pick(_in_rows(frames.stored), rows) for frames in past.whole_pools())
    return [value.reshape(*shape, *value.shape[1:]) for value in values]


def _brought_over(past: History, field: ReceptiveField) -> list[Shaped[Array, "b r p h d"]]:
    """Gathers values of the field's frames where not all of them are on the device."""
    k, v = past.whole_pools()
    assert past.copied is not None and k.copies is not None and v.copies is not None
    is_copied = field.frame[..., None] == past.copied[:, None]  # [b, r, n]
    missing = (field.frame >= 0) & ~jnp.any(is_copied, axis=-1)
    values = [gather(copies, jnp.argmax(is_copied, axis=-1)) for copies in (k.copies, v.copies)]
    return _with_copies(
        values,
        [_in_rows(frames.stored) for frames in (k, v)],
        _rows_of(past, field.slot),
        missing,
    )


def _in_rows(stored: Shaped[Array, "l b f p h d"]) -> Shaped[Array, "lbf p h d"]:
    """Reshapes so that there is one axis to slice: a TPU's host copies support no more."""
    return stored.reshape(-1, *stored.shape[3:])


def _rows_of(past: History, slot: Int[Array, "b r"]) -> Int[Array, " br"]:
    """Row indices of this layer's frames."""
    _, films, frames = past.whole_pools()[0].stored.shape[:3]
    assert past.layer is not None
    return ((past.layer * films + jnp.arange(films)[:, None]) * frames + slot).reshape(-1)


def _with_copies(values, stored, source: Int[Array, " br"], missing: Bool[Array, "b r"]):
    """`values` [b, r, p, h, d] with the stored frames `source` copied to the `missing` entries.

    Only the missing frames are read.
    """
    if not missing.size:  # the loop's body is traced even so
        return values
    place = jnp.argsort(~missing.reshape(-1), stable=True)

    def copied(turn, values):
        at = place[turn]
        frame_of = lambda array: jax.lax.dynamic_index_in_dim(array, source[at])
        here = [
            _as_stored(jax.device_put(frame_of(array), jax.memory.Space.Device)) for array in stored
        ]
        return [
            jax.lax.dynamic_update_slice_in_dim(value, new, at, axis=0)
            for value, new in zip(values, here, strict=True)
        ]

    in_row = [value.reshape(-1, *value.shape[2:]) for value in values]
    in_row = jax.lax.fori_loop(0, jnp.sum(missing, dtype=jnp.int32), copied, in_row)
    return [row.reshape(value.shape) for row, value in zip(in_row, values, strict=True)]


def _as_stored(frame: Shaped[Array, "1 p h d"]) -> Shaped[Array, "1 p h d"]:
    """On a TPU, pins a frame to its source's layout, or consumers relayout the whole host pool."""
    return (
        with_layout_constraint(frame, Layout(tuple(range(frame.ndim))))
        if platform() == "tpu"
        else frame
    )
