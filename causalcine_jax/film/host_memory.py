"""Host memory that the accelerator's programs read and write: how much there is of it, and a pool of history born in it."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from causalcine_jax.errors import UsageError
from causalcine_jax.models.cache.kv_cache import DEVICE, HOST, KVCache, axes_of
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.processes import all_gather_text, check_all, several

GB = 10**9
# JAX on GPUs takes at most so many GiB of it for its arrays.
LIMIT = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"
DEFAULT_LIMIT = 64


def physical_memory() -> int | None:
    """Bytes of the machine's memory; None where it does not tell."""
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def allow_all_host_memory() -> None:
    """Lets JAX on GPUs place arrays in all of the machine's memory, unless the environment says how much; before the first use of a device."""
    if size := physical_memory():
        os.environ.setdefault(LIMIT, str(max(DEFAULT_LIMIT, size // 2**30)))


def machine() -> str:
    """The same in all processes on one machine, in its containers too."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else platform.node()


def check_host_room(pool_bytes: int) -> None:
    """`UsageError`, in every process, where one cannot have its share of a pool of so many bytes in host memory, or its machine all of its processes'."""
    device = jax.local_devices()[0]
    if HOST not in {memory.kind for memory in device.addressable_memories()}:
        raise UsageError(
            f"{device.device_kind} has no host memory for its programs to read: keep the pool on the device (pool_on)"
        )
    here = all_gather_text(machine()).count(machine()) if several() else 1
    share, room = pool_bytes // jax.process_count(), physical_memory()
    together, allowed = share * here, int(os.environ.get(LIMIT, DEFAULT_LIMIT)) * 2**30
    fault = ""
    if room is not None and together > room:
        of_processes = f" for {here} processes" if here > 1 else ""
        fault = (
            f"the pool of history takes {together:,} bytes of host memory{of_processes}, {together / GB:.3g} GB, and the machine has {room:,}: "
            "keep less of it (pool_frames, pool_gb) or in fewer bits (kv_dtype)"
        )
    elif device.platform == "gpu" and share > allowed:
        fault = f"the pool of history takes {share:,} bytes of host memory, and JAX is allowed {allowed:,}: set {LIMIT}={-(-share // 2**30) + 1} before it starts"
    check_all(fault)


def in_its_places(make: Callable[[], KVCache]) -> KVCache:
    """The empty pool that `make` describes, its keys and values in host memory; on the device they never are, not even while it is made."""
    shapes = jax.eval_shape(make)
    leaves, structure = jax.tree.flatten(shapes)
    hosted = [kind == HOST for kind in jax.tree.leaves(shapes.memory_kinds())]
    # Said to be there, as what is on the host must be: a commit's results are, and a pool that was not would have every move compiled twice.
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
    return structure.unflatten(
        [_zeros(leaf) if host else next(made) for leaf, host in zip(leaves, hosted, strict=True)]
    )


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """An array of zeros in host memory, of each device its own part."""
    if active_mesh() is None:
        return jax.device_put(
            np.zeros(shape.shape, shape.dtype),
            SingleDeviceSharding(jax.local_devices()[0], memory_kind=HOST),
        )
    place = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*axes_of(shape)), memory_kind=HOST)
    part = place.shard_shape(shape.shape)
    return jax.make_array_from_callback(shape.shape, place, lambda _: np.zeros(part, shape.dtype))
