"""Where arrays live: parameters, optimizer and EMA over all devices, batches over the axis "data".

The mesh has the axes ("data", "seq"); one device is a mesh of 1x1, so there is no other path for it. An array is cut along its
largest axis that the devices divide, and is replicated if there is none.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import UsageError

AXES = ("data", "seq")
SMALLEST_CUT = 2**14  # elements; cutting less costs more in messages than it saves in memory


def make_mesh(seq: int = 1) -> Mesh:
    """All devices as a mesh of (devices / seq, seq)."""
    devices = jax.devices()
    if len(devices) % seq:
        raise UsageError(f"{len(devices)} devices cannot be split into groups of {seq}")
    return Mesh(np.asarray(devices).reshape(-1, seq), AXES)


def state_shardings(mesh: Mesh, shapes):
    """A sharding for every array of the pytree `shapes`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _cut(mesh.size, leaf.shape)), shapes)


def _cut(devices: int, shape: tuple[int, ...]) -> PartitionSpec:
    axes = [axis for axis in range(len(shape)) if shape[axis] % devices == 0]
    if devices == 1 or not axes or np.prod(shape) < SMALLEST_CUT:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(AXES if axis == largest else None for axis in range(largest + 1)))


def put_batch(mesh: Mesh, batch):
    """This process's part of a batch (numpy) as global arrays cut over "data"."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch)


def check_batch(mesh: Mesh, batch: int, accumulation: int) -> None:
    """A batch must divide into micro-batches over the axis "data"."""
    groups = mesh.shape["data"]
    if (batch // accumulation) % groups:
        raise UsageError(
            f"a micro-batch of {batch // accumulation} films cannot be split over {groups} devices: make batch a multiple of {groups * accumulation}"
        )
