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
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.parallel.processes import is_first
from causalcine_jax.parallel.sharding import path_of
from causalcine_jax.training.state import Batches, TrainState


class Checkpoints:
    """The checkpoints in a folder, of which the last `keep` stay."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, batches: Batches) -> None:
        """Starts saving; returns as soon as the state may be donated again."""
        if step == self.latest:
            return
        with self._disk_faults():
            self._orbax.save_checkpointables_async(
                step, {"state": flat(state), "data": _Position(batches)}
            )

    def restore(self, like: TrainState, batches: Batches) -> TrainState:
        """The newest checkpoint, with the shardings of `like` (shapes).

        `batches` is set to where it was.

        Raises:
          UsageError: it is of another network or optimizer.
          DataError: it cannot be read.
        """
        wanted = flat(like)
        saved = self._orbax.checkpointables_metadata().metadata["state"]
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
        try:
            loaded = self._orbax.load_checkpointables(
                None, {"state": wanted, "data": _Position(batches)}
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"checkpoint {self.latest} in {self.folder} cannot be read ({_one_line(error)}); "
                f"delete {self.folder / str(self.latest)} alone, to go on from the one before"
            ) from error
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
    def _disk_faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
            full = "No space left" in str(error)
            reason = "the disk is full; make room and run again" if full else _one_line(error)
            raise DataError(f"cannot write a checkpoint to {self.folder}: {reason}") from error


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
