"""The mesh: all devices as a table of ("data", "seq").

    data   rows: each has films of its own
    seq    the devices of a row share their films: each has some tokens of every chunk, and in attention all tokens of some heads

Nothing holds a mesh. `with jax.set_mesh(mesh):` around calls is all that turns it on; what is traced under it asks for it here. Without one,
or on one device, every function of this package returns what it was given, and the program is that of one device.
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
    """All devices of all processes (or `devices`, a sequence) as a mesh of (devices / seq, seq).

    Those of a process stand next to each other. `UsageError` naming what is possible where they cannot be.
    """
    devices = (
        sorted(jax.devices(), key=lambda device: device.process_index)
        if devices is None
        else devices
    )
    if not 0 < seq <= len(devices) or len(devices) % seq:
        fault = "are not enough for" if seq > len(devices) else "cannot be split into"
        raise UsageError(
            f"{len(devices)} devices {fault} groups of seq={seq}: seq can be {_listed(divisors(len(devices)))}"
        )
    return Mesh(np.asarray(devices).reshape(-1, seq), AXES)


def active_mesh() -> AbstractMesh | None:
    """The mesh that the code being traced runs under; None without one, on one device, and inside an island, where arrays are one device's own."""
    mesh = jax.sharding.get_abstract_mesh()
    return (
        None
        if mesh.empty or mesh.size == 1 or mesh.manual_axes or set(mesh.axis_names) != set(AXES)
        else mesh
    )


def shard(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """x cut over the mesh: its n-th axis along the n-th of `axes`, where that divides it, and all others whole."""
    mesh = active_mesh()
    if mesh is None:
        return x
    parts = lambda axis: math.prod(
        mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis)
    )
    fits = (axis if axis and size % parts(axis) == 0 else None for size, axis in zip(x.shape, axes))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fits))


def frames_axis(height: int, width: int) -> int | None:
    """Which axis of latent frames [b, t, h, w, c], and of all that a VAE makes of them, is cut over "seq": height, else width; None where that divides neither."""
    mesh = active_mesh()
    sides = () if mesh is None else ((2, height), (3, width))
    return next((axis for axis, side in sides if side % mesh.shape["seq"] == 0), None)


def shard_frames(frames: Float[Array, "b t h w c"], axis: int | None) -> Float[Array, "b t h w c"]:
    """Frames cut over "seq" along `axis`."""
    return shard(frames, "data", None, *("seq" if side == axis else None for side in (2, 3)))


def check_shardable(
    mesh: AbstractMesh | Mesh, *, films: int, heads: int, chunk_tokens: int
) -> None:
    """`UsageError` listing everything that the mesh does not divide, with what would."""
    data, seq = (mesh.shape[axis] for axis in AXES)
    faults = []
    if films % data:
        faults.append(
            f"{films} films cannot be split over data={data} (make them a multiple of {data})"
        )
    if heads % seq or chunk_tokens % seq:
        legal = [n for n in divisors(heads) if chunk_tokens % n == 0]
        faults.append(
            f"seq={seq} does not divide both {heads} heads and a chunk's {chunk_tokens} tokens; {_listed(legal)} would"
        )
    raise_faults(f"mesh of data={data}, seq={seq}", faults)


def check_batch(mesh: Mesh, batch: int, accumulation: int) -> None:
    """A batch must divide into micro-batches over the axis "data"."""
    groups = mesh.shape["data"]
    if (batch // accumulation) % groups:
        of_processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        devices = (
            f"{groups} devices"
            if mesh.shape["seq"] == 1
            else f"{groups} groups of {mesh.shape['seq']} devices"
        )
        raise UsageError(
            f"a micro-batch of {batch // accumulation} films cannot be split over {devices}{of_processes}: "
            f"make batch a multiple of {groups * accumulation}"
        )


def own_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process reads, and of how many: (index, count).

    Processes whose devices share rows of the mesh read the same films. `UsageError` naming the legal degrees where rows begin or end inside
    a process, but not with it.
    """
    seq, own = mesh.shape["seq"], jax.local_device_count()
    if seq % own and own % seq:
        legal = [n for n in divisors(mesh.size) if n % own == 0 or own % n == 0]
        raise UsageError(
            f"groups of seq={seq} cannot be made of processes with {own} devices each: seq can be {_listed(legal)}"
        )
    sharing = max(1, seq // own)
    return jax.process_index() // sharing, jax.process_count() // sharing


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
