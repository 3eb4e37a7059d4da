"""The loop on a toy: records, resuming, stopping, refusing."""

import dataclasses
import gc
import importlib.util
import itertools
import json
import os
import resource
import shutil
import signal
import weakref

import jax
import numpy as np
import pytest
from toy_stage import OPTIM, toy_batches, toy_config, toy_stage

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.nn import Linear
from causalcine_jax.training import loop
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
)
from causalcine_jax.training.held_out import HeldOut
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import draw_loss_curve, drop_after, read_records
from causalcine_jax.training.same_run import changes, newest_checkpoint
from causalcine_jax.training.state import Stage
from causalcine_jax.utils import output
from causalcine_jax.utils.output import one_writer

TIMES = ("films_per_s", "step_s", "data_wait_s")

pytestmark = pytest.mark.usefixtures("no_picture")


def curve(out) -> list[dict]:
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in read_records(out / "metrics.jsonl")
    ]


def test_a_run_leaves_records_checkpoints_config_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "draw_loss_curve", draw_loss_curve)
    exported = []
    state = train(toy_config(tmp_path), toy_stage(exported=exported))
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12]
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert {"grad_norm", "lr", "skipped", "bad_records", *TIMES} <= set(records[0])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "8"]
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.05
    assert (tmp_path / "loss.png").stat().st_size > 5000
    [(nets, facts)] = exported
    jax.tree.map(np.testing.assert_array_equal, nets, state.ema)
    assert facts["training"]["step"] == 12


def test_what_was_loaded_is_not_kept_beside_the_state(tmp_path, monkeypatch):
    held = []

    def loads(config) -> Stage:
        net = Linear(8, 8, key=jax.random.key(0))
        held.append(weakref.ref(net.weight[...]))
        return dataclasses.replace(
            toy_stage(),
            trained={"net": net},
            export=lambda *_: (gc.collect(), held.append(held[0]())),
        )

    monkeypatch.setattr(loop, "make_stage", loads)
    train(toy_config(tmp_path, steps=3))
    assert held[1] is None


class StoppedAtSeven:
    """Batches, of which the seventh comes with a SIGTERM."""

    def __init__(self, batches):
        self._batches, self._taken = batches, 0

    def __next__(self):
        self._taken += 1
        if self._taken == 8:  # the first was only looked at
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self._batches)

    def __getattr__(self, name):
        return getattr(self._batches, name)


@pytest.mark.parametrize(("slow", "last"), [(0.0, 7), (1e9, 9)])
def test_several_processes_stop_at_the_step_in_progress_where_steps_are_slow(
    tmp_path, monkeypatch, slow, last
):
    for name, value in (("several", lambda: True), ("any_process", bool), ("SLOW_STEP", slow)):
        monkeypatch.setattr(loop, name, value)
    stage = toy_stage()
    stage = dataclasses.replace(stage, batches=StoppedAtSeven(stage.batches))
    assert int(train(toy_config(tmp_path), stage).step) == last


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(tmp_path):
    """Also what is due just at the step of the stop: a held-out measure, the model."""
    due = {
        "held_out": HeldOutConfig(every=7, films=4, store="unseen"),
        "checkpoint": CheckpointConfig(every=4, export_every=7),
    }
    unseen, exported = tuple(itertools.islice(toy_batches(4, seed=9), 1)), []
    measured = lambda: dataclasses.replace(toy_stage(exported=exported), held_out=unseen)
    whole = train(toy_config(tmp_path / "whole", **due), measured())
    stage = measured()
    stage = dataclasses.replace(stage, batches=StoppedAtSeven(stage.batches))
    parts = train(toy_config(tmp_path / "parts", **due), stage)
    assert int(parts.step) == 7
    parts = train(toy_config(tmp_path / "parts", **due), measured())
    assert [facts["training"]["step"] for _, facts in exported] == [7, 12] * 2
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)


def test_what_a_kill_cut_off_after_a_checkpoint_is_made_up(tmp_path, monkeypatch):
    """The held-out loss and the model of the resumed step; neither is made twice."""
    due = {
        "held_out": HeldOutConfig(every=4, films=4, store="unseen"),
        "checkpoint": CheckpointConfig(every=4, export_every=4),
    }
    unseen, exported = tuple(itertools.islice(toy_batches(4, seed=9), 1)), []
    measured = lambda: dataclasses.replace(toy_stage(exported=exported), held_out=unseen)
    steps = lambda: [facts["training"]["step"] for _, facts in exported]
    train(toy_config(tmp_path / "whole", **due), measured())
    measure, count = HeldOut.__call__, []

    def killed_at_the_second(self, *arguments):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(HeldOut, "__call__", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            train(toy_config(tmp_path / "parts", **due), measured())
    assert newest_checkpoint(tmp_path / "parts") == 8 and steps() == [4, 8, 12, 4]
    train(toy_config(tmp_path / "parts", **due), measured())
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert steps() == [4, 8, 12] * 2
    train(toy_config(tmp_path / "parts", **due), measured())
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_a_film_that_fails_is_noted_and_the_run_goes_on(tmp_path, capsys):
    def fails(model, folder, step):
        raise MemoryError("no room")

    stage = dataclasses.replace(toy_stage(), sample=fails)
    config = toy_config(tmp_path, sample=SampleConfig(every=4, at_end=True))
    assert int(train(config, stage).step) == 12
    notes = [line for line in capsys.readouterr().err.splitlines() if "no sample film" in line]
    assert [line.split("of ")[1].split(" (")[0] for line in notes] == [
        "step 4",
        "step 8",
        "step 12",
    ]
    assert all("MemoryError: no room" in line for line in notes)


def test_fewer_steps_than_the_newest_checkpoint_are_refused(tmp_path):
    train(toy_config(tmp_path, steps=8), toy_stage())
    with pytest.raises(UsageError, match="checkpoint of step 8, and steps is 6: raise steps to 8"):
        train(toy_config(tmp_path, steps=6), toy_stage())


def test_a_second_run_with_the_same_out_is_refused(tmp_path):
    held = f"is being written by process {os.getpid()} on .* another --config.out"
    with one_writer(tmp_path), pytest.raises(UsageError, match=held):
        train(toy_config(tmp_path), toy_stage())
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small_for_a_checkpoint_is_named_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(1000, 900, 100)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"not enough room .* 0\.000 MB free.* --config\.out"):
        train(toy_config(tmp_path), toy_stage())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(("every", "beside"), [(1, 3), (6, 2), (12, 1)])
def test_the_disk_must_have_room_for_the_checkpoints_that_lie_beside_each_other(
    tmp_path, monkeypatch, every, beside
):
    asked = []

    def check(needed, out, flag):
        asked.append(needed)
        if len(asked) == 2:  # the longer run need not be made
            raise DataError("no room")

    monkeypatch.setattr(loop, "check_disk", check)
    config = toy_config(tmp_path, checkpoint=CheckpointConfig(every=every, keep=2))
    state = train(config, toy_stage())
    each = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert asked == [beside * each]
    with pytest.raises(DataError, match="no room"):
        train(dataclasses.replace(config, steps=24), toy_stage())
    there = min(2, 12 // every)
    assert asked[1] == min(3 - there, 12 // every) * each


def test_a_disk_that_fills_up_is_one_error_that_names_the_file(tmp_path, capsys):
    train(toy_config(tmp_path, steps=4), toy_stage())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*: File too large"):
            train(toy_config(tmp_path), toy_stage())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state = train(toy_config(tmp_path), toy_stage())  # goes on from the checkpoint before
    assert int(state.step) == 12 and len(read_records(tmp_path / "metrics.jsonl")) == 6


def test_records_beyond_the_checkpoint_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"step": 8, "lo')
    drop_after(file, 4)
    assert file.read_text() == '{"step": 2}\n{"step": 4}\n'


def test_skipped_steps_are_counted_and_too_many_stop_the_run(tmp_path):
    train(toy_config(tmp_path / "few", max_nan_steps=3), toy_stage(poisoned=(3, 4, 9)))
    assert [record["skipped"] for record in read_records(tmp_path / "few" / "metrics.jsonl")] == [
        0,
        2,
        2,
        2,
        3,
        3,
    ]
    with pytest.raises(DataError, match=r"not finite in 3 steps in a row, from step 5 on"):
        train(toy_config(tmp_path / "many", max_nan_steps=3), toy_stage(poisoned=(5, 6, 7)))
    assert all(
        record["loss"] is None or np.isfinite(record["loss"])
        for record in read_records(tmp_path / "many" / "metrics.jsonl")
    )


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    train(toy_config(tmp_path, steps=4), toy_stage())
    with pytest.raises(UsageError, match=r"another run: seed was 0, is 1; batch was 4, is 8"):
        train(toy_config(tmp_path, steps=4, seed=1, batch=8), toy_stage(8))


def test_a_longer_run_goes_on(tmp_path):
    train(toy_config(tmp_path, steps=4), toy_stage())
    state = train(toy_config(tmp_path, steps=8), toy_stage())
    assert int(state.step) == 8
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [2, 4, 6, 8]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    train(toy_config(tmp_path, steps=4), toy_stage())
    optim = OptimConfig(optimizer="muon", lr=0.05, warmup=2)
    with pytest.raises(UsageError, match="of another run"):
        train(toy_config(tmp_path, steps=8, optim=optim), toy_stage(optim=optim), force=True)


def test_a_changed_config_is_shown_and_goes_on_only_when_forced(tmp_path, capsys):
    train(toy_config(tmp_path, steps=4), toy_stage())
    optim = dataclasses.replace(OPTIM, lr=0.01)
    with pytest.raises(
        UsageError, match=r"another config: optim\.lr was 0\.05, is 0\.01\. --force goes on"
    ):
        train(toy_config(tmp_path, steps=6, optim=optim), toy_stage(optim=optim))
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.05
    assert (
        int(
            train(
                toy_config(tmp_path, steps=6, optim=optim), toy_stage(optim=optim), force=True
            ).step
        )
        == 6
    )
    assert "changed since this run began: optim.lr was 0.05, is 0.01" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"another run: seed was 0, is 1"):
        train(
            toy_config(tmp_path, steps=6, seed=1, optim=optim), toy_stage(optim=optim), force=True
        )


def test_a_run_from_before_a_field_existed_had_its_default(tmp_path):
    train(toy_config(tmp_path, steps=4), toy_stage())
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["time"]["draws"], saved["gan"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert changes(tmp_path, toy_config(tmp_path, steps=4)) == []
    drawn = toy_config(tmp_path, steps=4, time=TimeConfig(draws=2))
    assert changes(tmp_path, drawn) == ["time.draws was 1, is 2"]


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    train(toy_config(tmp_path, steps=8, checkpoint=CheckpointConfig(every=4)), toy_stage())
    newest = tmp_path / "checkpoints" / "8"
    newest.rename(tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp-123")
    state = train(toy_config(tmp_path, steps=8), toy_stage())
    assert int(state.step) == 8 and newest.is_dir()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is not None, reason="tensorboardX is installed"
)
def test_tensorboard_is_an_extra(tmp_path):
    with pytest.raises(UsageError, match="pip install"):
        train(toy_config(tmp_path, tensorboard=True), toy_stage())


def test_how_far_data_is_read_ahead_may_change(tmp_path):
    train(toy_config(tmp_path, steps=4), toy_stage())
    data = DataConfig(threads=7, max_bad_fraction=0.5)
    assert changes(tmp_path, toy_config(tmp_path, steps=4, data=data)) == []
    store = DataConfig(films=7)
    (line,) = changes(tmp_path, toy_config(tmp_path, steps=4, data=store))
    assert line.startswith("data.films was")
