"""What processes that are one run or film tell each other: arrays and text, by process number."""

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def several() -> bool:
    return jax.process_count() > 1


def films_of_all(own: np.ndarray) -> jax.Array:
    """The numbers of every process's films, by process: an array in flight, as of `any_process`."""
    with jax.set_mesh(_one_device_each()):
        return _replicated(_as_rows(own.astype(np.int32)))


def all_gather_text(text: str) -> list[str]:
    """The `text` of each process, by process number."""
    content = np.frombuffer(text.encode("utf-8"), np.uint8)
    sizes = _all_gather(np.array([len(content)], np.int32))[:, 0]
    padded = np.zeros(int(sizes.max()) + 1, np.uint8)
    padded[: len(content)] = content
    return [
        bytes(row[:size]).decode("utf-8")
        for row, size in zip(_all_gather(padded), sizes, strict=True)
    ]


def any_process(asked: bool) -> bool | jax.Array:
    """Whether `asked` is true in any process.

    With several processes the result is a device array in flight; reading it waits for all.
    """
    if not several():
        return asked
    with jax.set_mesh(_one_device_each()):
        return _any(_as_rows(np.array([asked])))


def gather_to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """The full array on the host.

    If it spans the devices of several processes, every process must call this.
    """
    if spans_processes(array):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def spans_processes(array: jax.Array | np.ndarray) -> bool:
    """Whether no process has all of an array on its own devices."""
    return isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    )


def _as_rows(own: np.ndarray) -> jax.Array:
    """Stacks every process's `own` array (one shape, one dtype) into a global array.

    Each row lies on one device of its process.
    """
    return jax.make_array_from_process_local_data(
        NamedSharding(_one_device_each(), PartitionSpec("processes")), own[None]
    )


@functools.cache
def _one_device_each() -> Mesh:
    devices = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([devices[process] for process in sorted(devices)]), "processes")


def _all_gather(own: np.ndarray) -> np.ndarray:
    # The caller may be under another mesh, such as the one that trains.
    with jax.set_mesh(_one_device_each()):
        return gather_to_host(_as_rows(own))


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return flags.any()


@jax.jit
def _replicated(rows: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(rows, PartitionSpec())
