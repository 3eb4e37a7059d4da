"""The state of a run on disk, saved in the background.

Arrays and the position of the data iterator are saved together, so that a run continues exactly.
orbax writes a checkpoint under a temporary name and renames it when it is complete, so a killed
process leaves the last complete one. Arrays have flat names
(params.transformer.blocks.ffn_0.weight), whatever module classes hold them. Each process saves its
devices' part; a checkpoint may be loaded by another number of processes.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from causalcine_jax.cli import DISK_FAULTS
from causalcine_jax.errors import DataError, UsageError, is_out_of_memory, one_line
from causalcine_jax.parallel.processes import is_first
from causalcine_jax.parallel.sharding import path_of
from causalcine_jax.training.state import Batches, TrainState
from causalcine_jax.utils.arrays import tree_bytes

# Seconds in which a checkpoint must be on disk. orbax's 20 minutes are too few for the 229 GB of
# 14B on shared disks of less than 190 MB/s.
LONGEST_SAVE = 3 * 60 * 60


class Checkpoints:
    """The checkpoints in a folder, of which the last `keep` stay."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
            context=ocp.Context(async_options=ocp.options.AsyncOptions(timeout_secs=LONGEST_SAVE)),
        )
        self._saving = ""  # which checkpoint an error is about

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        # orbax lists a checkpoint from the moment at which it begins to write it.
        return max(
            (each.step for each in self._orbax.checkpoints if each.path.exists()), default=None
        )

    @property
    def count(self) -> int:
        """Complete checkpoints."""
        return sum(each.path.exists() for each in self._orbax.checkpoints)

    def save(self, step: int, state: TrainState, batches: Batches) -> None:
        """Starts saving; returns as soon as the state may be donated again.

        `DataError` if the disk refuses this checkpoint, or refused the one before it.
        """
        if any(each.step == step for each in self._orbax.checkpoints):
            return
        self.wait()
        arrays = flat(state)
        self._saving = f" of step {step}, {tree_bytes(arrays):,} bytes,"
        with self._disk_faults():
            self._orbax.save_checkpointables_async(
                step, {"state": arrays, "data": _Position(batches)}
            )

    def restore(self, like: TrainState, batches: Batches) -> TrainState:
        """The newest checkpoint, with the shardings of `like` (shapes).

        `batches` is set to where it was.

        Raises:
          UsageError: it is of another network or optimizer.
          DataError: it cannot be read.
        """
        wanted = flat(like)
        with self._damage():
            saved = self._orbax.checkpointables_metadata().metadata["state"]
            if saved is None:
                raise ValueError("its list of arrays is damaged")
            there = {name: tuple(leaf.shape) for name, leaf in saved.items()}
        faults = [
            f"{name}: {there.get(name, 'missing')}, expected {leaf.shape}"
            for name, leaf in wanted.items()
            if there.get(name) != leaf.shape
        ]
        faults += [f"{name}: not expected" for name in there if name not in wanted]
        if faults:
            more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
            raise UsageError(
                f"the checkpoint in {self.folder} is of another run: "
                f"{'; '.join(faults[:4])}{more}; choose another out, or delete it"
            )
        with self._damage():
            loaded = self._orbax.load_checkpointables(
                None, {"state": wanted, "data": _Position(batches)}
            )
        return jax.tree.unflatten(
            jax.tree.structure(like), [loaded["state"][name] for name in wanted]
        )

    def wait(self) -> None:
        """Returns when everything is on disk; `DataError` if the disk refuses."""
        with self._disk_faults():
            self._orbax.wait()

    def close(self) -> None:
        """Ends the background work; `wait` first makes sure that all is on disk."""
        with contextlib.suppress(OSError, ValueError):
            self._orbax.close()

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a damaged file may be any error of orbax
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                raise
            if (refused := _usage_error(error)) is not None:  # such as data that has changed
                raise refused from None
            *_, before, newest = [None, *(each.step for each in self._orbax.checkpoints)]
            then = "begin anew" if before is None else f"go on from step {before}"
            raise DataError(
                f"checkpoint {newest} in {self.folder} cannot be read ({_reason(error)}); "
                f"delete {self.folder / str(newest)} alone, to {then}"
            ) from error

    @contextlib.contextmanager
    def _disk_faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            fault = DISK_FAULTS.get(_errno(error) or 0)
            room = "make room and " if fault else ""
            newest = self.latest
            raise DataError(
                f"cannot write the checkpoint{self._saving} into {self.folder}: "
                f"{fault or _reason(error)}; {room}give the command again, which "
                + ("begins anew" if newest is None else f"goes on from step {newest}")
                + ", or choose another --config.out"
            ) from error


class _Position:
    """The position of the batches, as a `StatefulCheckpointable` of orbax.

    It is the same in all processes. The file is the one that grain writes for the iterator of a
    single process.
    """

    FILE = "process_0-of-1.json"

    def __init__(self, batches: Batches):
        self._batches = batches

    async def save(self, directory) -> Awaitable[None]:
        return self._write(directory, json.dumps(self._batches.get_state(), indent=4))

    async def load(self, directory) -> Awaitable[None]:
        return self._read(directory)

    async def _write(self, directory, state: str) -> None:
        folder = await directory.await_creation()
        if is_first():
            await asyncio.to_thread((folder / self.FILE).write_text, state)

    async def _read(self, folder) -> None:
        self._batches.set_state(json.loads(await asyncio.to_thread((folder / self.FILE).read_text)))


def flat(state: TrainState) -> dict[str, Any]:
    """The arrays of a state, or their shapes, by name, in the order of its leaves."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    if len(leaves) != len(jax.tree.leaves(state)):
        raise AssertionError("two arrays of the state have the same name")
    return leaves


def _usage_error(error: BaseException | None) -> UsageError | None:
    """The `UsageError` that is the error or its cause."""
    while error is not None and not isinstance(error, UsageError):
        error = error.__cause__ or error.__context__
    return error


def _errno(error: Exception) -> int | None:
    """The system's number of a fault; tensorstore has it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else None


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # orbax wraps the fault into a list of its handlers
        error = error.__cause__
    return one_line(error)
