"""The log of a run: records on disk, what TensorBoard is given."""

import json
import math
import sys
import types

import pytest

from causalcine_jax.errors import UsageError
from causalcine_jax.training.metrics import MetricLog, read_records


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


def test_a_record_cut_off_by_a_crash_and_those_after_the_start_are_dropped(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8"
    )
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    MetricLog(tmp_path, 10, 2).close()
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2]
