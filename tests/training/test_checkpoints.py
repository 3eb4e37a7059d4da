"""Checkpoints on disks that fill up, and checkpoints that were damaged: one line, nothing lost."""

import asyncio
import contextlib
import errno
import logging
import resource
import shutil
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from causalcine_jax.commands import train as command
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.training.checkpoints import Checkpoints
from causalcine_jax.training.state import TrainState

SIZE = 1 << 16
# As tensorstore and orbax raise them for a full disk.
FULL = (
    ValueError(
        'RESOURCE_EXHAUSTED: Failed writing: "out/d/9dd3": Failed to write 7188480 bytes to file '
        "24: No space left on device [os_error_code='28']"
    ),
    OSError(errno.ENOSPC, "No space left on device", "2.orbax-checkpoint-tmp"),
)
OVER_QUOTA = ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded [os_error_code='122']")


class Batches:
    def __init__(self):
        self.at = 0

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def state(step: int) -> TrainState:
    noise = np.random.default_rng(step).standard_normal(SIZE, np.float32)
    return TrainState(jnp.int32(step), {"net": jnp.asarray(noise)}, {}, {}, {}, {}, {})


def opened(folder) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", keep=3)


@pytest.fixture
def saved(tmp_path):
    """A run with a checkpoint of step 4, going on."""
    checkpoints = opened(tmp_path)
    checkpoints.save(4, state(4), Batches())
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        *((fault, "the disk is full; make room and give") for fault in FULL),
        (OVER_QUOTA, "the disk quota is used up; make room and give"),
        (OSError(errno.EIO, "Input/output error"), r"\[Errno 5\] Input/output error; give"),
    ],
    ids=["tensorstore", "orbax", "quota", "other"],
)
def test_a_disk_that_refuses_is_one_line_that_says_what_stays(
    fault, said, saved, tmp_path, monkeypatch
):
    def refuses(*_, **__):
        raise fault

    line = (
        rf"^cannot write the checkpoint of step 8, {4 * SIZE + 4:,} bytes, into "
        rf"{tmp_path}/checkpoints: {said} the command again, which goes on from step 4, or choose "
        r"another --config\.out$"
    )
    with monkeypatch.context() as patched:  # at once
        patched.setattr(saved._orbax, "save_checkpointables_async", refuses)
        with pytest.raises(DataError, match=line):
            saved.save(8, state(8), Batches())
    with monkeypatch.context() as patched:  # in the background, and told by the next save
        patched.setattr(saved._orbax, "save_checkpointables_async", lambda *_: None)
        saved.save(8, state(8), Batches())
        patched.setattr(saved._orbax, "wait", refuses)
        with pytest.raises(DataError, match=line):
            saved.save(12, state(12), Batches())


def test_a_write_that_the_system_cuts_off_leaves_no_checkpoint(tmp_path):
    """By a real limit, so with tensorstore's own error."""
    checkpoints, (soft, hard) = opened(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    for step, going_on in ((4, "begins anew"), (8, "goes on from step 4")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
        try:
            checkpoints.save(step, state(step), Batches())
            assert checkpoints.latest != step  # only what is complete counts
            with pytest.raises(DataError, match=f"step {step}, .* which {going_on}, or choose"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.close()
        checkpoints = opened(tmp_path)
        assert checkpoints.latest == (None if step == 4 else 4)
        checkpoints.save(step, state(step), Batches())
        checkpoints.wait()
    assert np.array_equal(restored(checkpoints), state(8).params["net"])


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize(
    "file", ["data/process_0-of-1.json", "state/_METADATA", "state/manifest.ocdbt", "state/*/d/*"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_whole(file, damage, saved, tmp_path):
    saved.save(8, state(8), Batches())
    saved.wait()
    newest = tmp_path / "checkpoints" / "8"
    (found,) = newest.glob(file)
    damage(found)
    with pytest.raises(
        DataError, match=rf"^checkpoint 8 in .*; delete {newest} alone, to go on from step 4$"
    ):
        restored(opened(tmp_path))
    shutil.rmtree(newest)
    assert np.array_equal(restored(opened(tmp_path)), state(4).params["net"])


def test_writes_that_nobody_awaits_any_more_are_not_heard(monkeypatch):
    """After a failed save, tensorstore's other writes end on a closed event loop."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logger.level)
    heard: list = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)

    def fail_and_go_on_writing():
        promise, written = tensorstore.Promise.new()

        async def write():
            return await written

        async def fail():
            raise FULL[1]

        async def save():
            await asyncio.gather(write(), fail())

        with contextlib.closing(asyncio.new_event_loop()) as loop, pytest.raises(OSError):
            loop.run_until_complete(save())
        writer = threading.Thread(target=promise.set_result, args=(None,))
        writer.start()
        writer.join()

    fail_and_go_on_writing()
    assert [str(each.exc_value) for each in heard] == ["Event loop is closed"]
    command._quiet_orbax()
    fail_and_go_on_writing()
    assert len(heard) == 1
    sys.unraisablehook(SimpleNamespace(exc_value=ValueError("of another kind")))
    assert len(heard) == 2


def restored(checkpoints: Checkpoints, batches: Batches | None = None):
    """The network of the newest one."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: state(0))
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)
    try:
        return checkpoints.restore(like, batches or Batches()).params["net"]
    finally:
        checkpoints.close()


def test_data_that_changed_is_no_damage(saved, tmp_path):
    class Changed(Batches):
        def set_state(self, state):
            raise UsageError("cannot resume the data: films was 2000, is 2100")

    with pytest.raises(UsageError, match="films was 2000, is 2100"):
        restored(opened(tmp_path), Changed())
