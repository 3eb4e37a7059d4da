"""The log of a run: records on disk, what TensorBoard is given."""

import json
import math
import sys
import types

import pytest

from causalcine_jax.errors import UsageError
from causalcine_jax.training.metrics import MetricLog, read_records
from causalcine_jax.utils import progress


class Writer:
    """What is used of tensorboardX.SummaryWriter; remembers what it was given."""

    made: list["Writer"] = []

    def __init__(self, folder: str):
        self.folder, self.scalars, self.closed = folder, [], False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


def test_tensorboard_is_given_every_finite_number(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    log = MetricLog(tmp_path, 10, 0, tensorboard=True)
    log.write({"step": 1, "loss": 0.5, "lr": math.nan})
    log.close()
    (writer,) = Writer.made
    assert (
        writer.scalars == [("loss", 0.5, 1)]
        and writer.closed
        and writer.folder == str(tmp_path / "tensorboard")
    )


def test_without_the_extra_the_install_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"causalcine-jax\[tensorboard\]"):
        MetricLog(tmp_path, 10, 0, tensorboard=True)


def test_a_resumed_run_says_the_time_left_by_its_own_steps(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    log = MetricLog(tmp_path, steps=100, start=40)
    now[0] = 1000  # the first step compiles
    log.begin(41)
    for step, seconds in ((41, 0), (50, 18), (60, 10)):
        now[0] += seconds
        log.write({"step": step, "loss": 1.0})
    assert capsys.readouterr().err.splitlines() == [
        "step 41/100  loss 1",
        "step 50/100  ETA 01:40  loss 1",
        "step 60/100  ETA 00:58  loss 1",  # 28 s for 19 steps
    ]


def test_on_a_terminal_a_bar_goes_on_from_the_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log = MetricLog(tmp_path, steps=8, start=4)
    log.begin(5)
    for _ in range(3):
        log.advance()
    log.close()
    first, *_, last = capsys.readouterr().err.strip().split("\r")
    assert " 5/8 [00:00, ETA ?" in first and " 8/8 [00:00, ETA 00:00" in last


def test_a_record_cut_off_by_a_crash_and_those_after_the_start_are_dropped(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8"
    )
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    MetricLog(tmp_path, 10, 2).close()
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2]
