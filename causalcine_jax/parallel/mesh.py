"""The device mesh, with axes ("data", "seq").

    data   batch axis: each row of devices has its own films
    seq    the devices of a row share films: each holds some tokens of every chunk,
           and in attention all tokens of some heads

No object stores a mesh. Callers enter `with jax.set_mesh(mesh):`, and code traced inside looks the
mesh up here. Without a mesh, or on one device, every function of this package returns its input
unchanged, so the program is the single-device one.
"""

import math
from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float

from causalcine_jax.errors import UsageError, raise_faults

AXES = ("data", "seq")


def make_mesh(seq: int = 1, devices=None) -> Mesh:
    """All devices of all processes (or the sequence `devices`) as a mesh [devices / seq, seq].

    The devices of one process are adjacent.

    Raises:
      UsageError: `seq` does not divide the device count; the message lists the legal values.
    """
    devices = (
        sorted(jax.devices(), key=lambda device: device.process_index)
        if devices is None
        else devices
    )
    if not 0 < seq <= len(devices) or len(devices) % seq:
        fault = "are not enough for" if seq > len(devices) else "cannot be split into"
        raise UsageError(
            f"{len(devices)} devices {fault} groups of seq={seq}: "
            f"seq can be {_listed(divisors(len(devices)))}"
        )
    return Mesh(np.asarray(devices).reshape(-1, seq), AXES)


def active_mesh() -> AbstractMesh | None:
    """The mesh that the traced code runs under, or None.

    None without a mesh, on one device, and inside a `shard_map` island, where arrays are local.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return (
        None
        if mesh.empty or mesh.size == 1 or mesh.manual_axes or set(mesh.axis_names) != set(AXES)
        else mesh
    )


def shard(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """x with axis n sharded along the n-th of `axes`, where that divides it; else replicated."""
    mesh = active_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, fitting(mesh, x.shape, *axes))


def fitting(
    mesh: Mesh | AbstractMesh, shape: tuple[int, ...], *axes: str | tuple[str, ...] | None
) -> PartitionSpec:
    """How `shard` places an array of that shape."""
    parts = lambda axis: math.prod(
        mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis)
    )
    fits = (axis if axis and size % parts(axis) == 0 else None for size, axis in zip(shape, axes))
    return PartitionSpec(*fits)


def frames_axis(height: int, width: int) -> int | None:
    """The axis that latent frames [b, t, h, w, c], and a VAE's activations, shard over "seq".

    Height (2) if "seq" divides it, else width (3), else None.
    """
    mesh = active_mesh()
    if mesh is None:
        return None
    sides, seq = ((2, height), (3, width)), mesh.shape["seq"]
    return next((axis for axis, side in sides if side % seq == 0), None)


def axes_of_frames(axis: int | None) -> tuple[str | None, ...]:
    """The mesh's axes of frames [b, t, h, w, c]: films over "data", and `axis` over "seq"."""
    return ("data", None, *("seq" if side == axis else None for side in (2, 3)))


def shard_frames(frames: Float[Array, "b t h w c"], axis: int | None) -> Float[Array, "b t h w c"]:
    """Frames sharded by `axes_of_frames`."""
    return shard(frames, *axes_of_frames(axis))


def check_shardable(
    mesh: AbstractMesh | Mesh, *, films: int, heads: int, chunk_tokens: int
) -> None:
    """Raises `UsageError` listing every size that the mesh does not divide, with legal values."""
    data, seq = (mesh.shape[axis] for axis in AXES)
    faults = []
    if films % data:
        faults.append(
            f"{films} films cannot be split over data={data} (make them a multiple of {data})"
        )
    if heads % seq or chunk_tokens % seq:
        legal = [n for n in divisors(heads) if chunk_tokens % n == 0]
        faults.append(
            f"seq={seq} does not divide both {heads} heads and a chunk's {chunk_tokens} tokens; "
            f"{_listed(legal)} would"
        )
    raise_faults(f"mesh of data={data}, seq={seq}", faults)


def check_batch(mesh: AbstractMesh | Mesh, batch: int, accumulation: int) -> None:
    """Raises `UsageError` unless every micro-batch splits evenly over the mesh axis "data"."""
    groups = mesh.shape["data"]
    if (batch // accumulation) % groups:
        of_processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        devices = (
            f"{groups} devices"
            if mesh.shape["seq"] == 1
            else f"{groups} groups of {mesh.shape['seq']} devices"
        )
        raise UsageError(
            f"a micro-batch of {batch // accumulation} films cannot be split over "
            f"{devices}{of_processes}: make batch a multiple of {groups * accumulation}"
        )


def own_part(mesh: AbstractMesh | Mesh) -> tuple[int, int]:
    """(index, count): which of `count` equal parts of every batch this process reads.

    Processes whose devices share mesh rows read the same films.

    Raises:
      UsageError: rows and process boundaries do not align; the message lists the legal degrees.
    """
    seq, own = mesh.shape["seq"], jax.local_device_count()
    if seq % own and own % seq:
        legal = [n for n in divisors(mesh.size) if n % own == 0 or own % n == 0]
        raise UsageError(
            f"groups of seq={seq} cannot be made of processes with {own} devices each: "
            f"seq can be {_listed(legal)}"
        )
    sharing = max(1, seq // own)
    return jax.process_index() // sharing, jax.process_count() // sharing


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
