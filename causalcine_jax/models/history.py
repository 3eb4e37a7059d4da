"""One layer's history, and the frames that a field takes from it.

    History + ReceptiveField --take--> k, v of the field's frames, on the device

Keys and values of a pool are on the device, or in host memory, so that a film's history may outgrow the accelerator. There a layer has on the device
all that routing reads, and the frames that it will most likely want: those of the newest chunks, and those that memory brought over for the last
commit. Any other frame is copied when a field holds it: this layer's part, as it is stored, one asynchronous copy each of keys and values. It is the
same numbers wherever they lie, so the same film.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int, Shaped

from causalcine_jax.models.platform import platform
from causalcine_jax.models.quantised import Frames, Quantised
from causalcine_jax.models.receptive_field import ReceptiveField


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HostFrames:
    """One layer's frames of a pool in host memory.

    stored  values of all layers' frames, in host memory; a scan hands it over whole, for what it slices it would copy
    scale   of this layer's frames, where they are quantised
    near    values of those of this layer's frames that are on the device too
    """

    stored: Shaped[Array, "l b f p h d"]
    scale: Float[Array, "b f h"] | None
    near: Shaped[Array, "b n p h d"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """One layer's history frames: k, v unrotated, descriptors, and each frame's index in the film (-1: empty).

    Of a pool in host memory, also which layer this is, and the indices in the film of the frames that are near.
    """

    k: Frames | HostFrames  # [b, f, p, h, d]
    v: Frames | HostFrames
    descriptors: Float[Array, "b f h d"]
    time: Int[Array, " f"]
    layer: Int[Array, ""] | None = None
    near: Int[Array, "b n"] | None = None


def take(past: History, field: ReceptiveField) -> tuple[Frames, Frames]:
    """Keys and values [b, r, p, h, d] of the field's frames, as they are stored; what lies beyond its length is arbitrary, but finite."""
    if past.near is not None:
        return _brought_over(past, field)
    return tuple(jax.tree.map(lambda stored: _gather(stored, field.frame), frames) for frames in (past.k, past.v))


def _gather(stored: Shaped[Array, "b f *d"], index: Int[Array, "b r"]) -> Shaped[Array, "b r *d"]:
    return jax.vmap(lambda frames, index: frames[index])(stored, index)


def _brought_over(past: History, field: ReceptiveField) -> tuple[Frames, Frames]:
    """`take` where not all frames are on the device."""
    is_near = field.time[..., None] == past.near[:, None]  # [b, r, n]
    missing = (field.time >= 0) & ~jnp.any(is_near, axis=-1)
    sources = (past.k, past.v)
    values = [_gather(frames.near, jnp.argmax(is_near, axis=-1)) for frames in sources]
    values = _with_copies(values, [frames.stored for frames in sources], past.layer, field.frame, missing)
    stored = lambda value, scale: value if scale is None else Quantised(value, _gather(scale, field.frame))
    return tuple(stored(value, frames.scale) for value, frames in zip(values, sources, strict=True))


def _with_copies(values, stored, layer: Int[Array, ""], frame: Int[Array, "b r"], missing: Bool[Array, "b r"]):
    """`values` [b, r, p, h, d] with copies of the stored frames in the places that are `missing`, and only those are read."""
    _, films, frames = stored[0].shape[:3]
    place = jnp.argsort(~missing.reshape(-1), stable=True)
    source = ((layer * films + jnp.arange(films)[:, None]) * frames + frame).reshape(-1)
    # One axis to slice along: a TPU's copies from host memory have no more.
    stored = [array.reshape(-1, *array.shape[3:]) for array in stored]

    def copied(turn, values):
        at = place[turn]
        frame_of = lambda array: jax.lax.dynamic_index_in_dim(array, source[at])
        here = [_as_stored(jax.device_put(frame_of(array), jax.memory.Space.Device)) for array in stored]
        return [jax.lax.dynamic_update_slice_in_dim(value, new, at, axis=0) for value, new in zip(values, here, strict=True)]

    in_row = [value.reshape(-1, *value.shape[2:]) for value in values]
    in_row = jax.lax.fori_loop(0, jnp.sum(missing, dtype=jnp.int32), copied, in_row)
    return [row.reshape(value.shape) for row, value in zip(in_row, values, strict=True)]


def _as_stored(frame: Shaped[Array, "1 p h d"]) -> Shaped[Array, "1 p h d"]:
    """On a TPU, the frame in the layout of its source: whoever reads it would else ask for another of all that is in host memory."""
    return with_layout_constraint(frame, Layout(tuple(range(frame.ndim)))) if platform() == "tpu" else frame
