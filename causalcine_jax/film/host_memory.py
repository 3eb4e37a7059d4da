"""Host memory that an accelerator's programs access: its size, and a pool allocated in it."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from causalcine_jax.errors import UsageError
from causalcine_jax.models.cache.kv_cache import DEVICE, HOST, KVCache, axes_of
from causalcine_jax.parallel.gathering import all_gather_text, several
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.processes import check_all
from causalcine_jax.utils.machine_memory import GB, machine_size, memory_size

# JAX on GPUs takes at most this many GiB of host memory for its arrays.
LIMIT = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"
DEFAULT_LIMIT = 64


def allow_all_host_memory() -> None:
    """Raises JAX's limit of host memory on GPUs to what a process may take, unless it is set.

    Call this before the first use of a device.
    """
    if size := memory_size():
        os.environ.setdefault(LIMIT, str(max(DEFAULT_LIMIT, size // 2**30)))


def machine() -> str:
    """An id that all processes of one machine share, also across its containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else platform.node()


def check_host_room(pool_bytes: int) -> None:
    """`UsageError` in every process if host memory has no room for a pool of `pool_bytes`.

    Checks each process's share, and each machine's total over its processes.
    """
    device = jax.local_devices()[0]
    if HOST not in {memory.kind for memory in device.addressable_memories()}:
        raise UsageError(
            f"{device.device_kind} has no host memory for its programs to read: "
            "keep the pool on the device (pool_on)"
        )
    here = all_gather_text(machine()).count(machine()) if several() else 1
    share = pool_bytes // jax.process_count()
    allowed = int(os.environ.get(LIMIT, DEFAULT_LIMIT)) * 2**30
    of_processes = f" for {here} processes" if here > 1 else ""
    # A container's limit is for its own processes, the machine's memory for all containers'.
    rooms = (
        (share * here, of_processes, machine_size(), "the machine has"),
        (share, "", memory_size(), "this process may take"),
    )
    fault = ""
    if short := [each for each in rooms if each[2] is not None and each[0] > each[2]]:
        taken, of_whom, room, whose = short[0]
        fault = (
            f"the pool of history takes {taken:,} bytes of host memory{of_whom}, "
            f"{taken / GB:.3g} GB, and {whose} {room:,}: "
            "keep less of it (pool_frames, pool_gb) or in fewer bits (kv_dtype)"
        )
    elif device.platform == "gpu" and share > allowed:
        fault = (
            f"the pool of history takes {share:,} bytes of host memory, and JAX is allowed "
            f"{allowed:,}: set {LIMIT}={-(-share // 2**30) + 1} before it starts"
        )
    check_all(fault)


def allocate_in_host_memory(make: Callable[[], KVCache]) -> KVCache:
    """The empty pool that `make` describes, with its keys and values in host memory.

    They never take device memory, not even during allocation.
    """
    shapes = jax.eval_shape(make)
    leaves, structure = jax.tree.flatten(shapes)
    hosted = [kind == HOST for kind in jax.tree.leaves(shapes.memory_kinds())]
    # Place explicitly: a commit's results have explicit memory kinds, so an implicit placement here
    # would compile every move twice.
    there = (
        SingleDeviceSharding(jax.local_devices()[0], memory_kind=DEVICE)
        if active_mesh() is None
        else None
    )
    on_device = jax.jit(
        lambda: [
            leaf for leaf, host in zip(jax.tree.leaves(make()), hosted, strict=True) if not host
        ],
        out_shardings=there,
    )
    made = iter(on_device())
    return jax.tree.unflatten(
        structure,
        [_zeros(leaf) if host else next(made) for leaf, host in zip(leaves, hosted, strict=True)],
    )


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Zeros in host memory; with a mesh, one shard per device."""
    if active_mesh() is None:
        return jax.device_put(
            np.zeros(shape.shape, shape.dtype),
            SingleDeviceSharding(jax.local_devices()[0], memory_kind=HOST),
        )
    place = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*axes_of(shape)), memory_kind=HOST)
    part = place.shard_shape(shape.shape)
    return jax.make_array_from_callback(shape.shape, place, lambda _: np.zeros(part, shape.dtype))
