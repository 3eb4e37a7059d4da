"""A device's targets: every run is measured, or its record says why not; reruns resume."""

import dataclasses
import json

import pytest

from benchmarks import PARTS, bench, targets
from benchmarks.settings import Settings
from benchmarks.target_list import TARGETS, Hardware, TargetNumber, TargetRun
from benchmarks.targets import measure_targets
from causalcine_jax.errors import DataError, UsageError

STORYWORLD = {"preset": "storyworld"}
RUNS = (
    TargetRun(
        "eyes",
        ("vae",),
        STORYWORLD,
        (TargetNumber("a chunk", "vae.decode.median", at_most=0.12, unit="s"),),
    ),
    TargetRun(
        "words",
        ("text",),
        STORYWORLD,
        (TargetNumber("a prompt", "text.flop_per_second", at_least=6e14, unit="FLOP/s"),),
    ),
    TargetRun(
        "film",
        ("forward",),
        {**STORYWORLD, "peer": True},
        (TargetNumber("speed over theirs", "forward.speed", at_least=1.0),),
    ),
    TargetRun(
        "free", ("attention",), STORYWORLD, (TargetNumber("for its own sake", "attention.fps"),)
    ),
)


class Machine:
    """A machine for `in_process`.

    `broken` parts raise, `kind` is the device's kind, and `asked` lists the requested parts.
    """

    def __init__(self):
        self.asked, self.broken, self.kind, self.count = [], {}, "a chip", 1

    def in_process(self, part, settings, environment=None, **given):
        if part != "device":
            self.asked.append(part)
        if part in self.broken:
            raise self.broken[part]
        forward = {"speed": 1.25} if settings.peer else {"ours": 1}
        results = {
            "vae": {"decode": {"median": 0.25}},
            "text": {"flop_per_second": 7e14},
            "forward": forward,
            "attention": {"fps": 3.0},
        }
        return {
            "result": results.get(part, {}),
            "device": {"platform": "cpu", "kind": self.kind, "count": self.count},
        }


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    for module in (bench, targets):
        monkeypatch.setattr(module, "in_process", machine.in_process)
    monkeypatch.setattr(bench, "PEERS", ("no_such_package",))
    code = {"jax": "0.10.2", "commit": "def", "sources": "123"}
    for module in (bench, targets):
        monkeypatch.setattr(module, "software", lambda: code)
    monkeypatch.setitem(TARGETS, "a chip", Hardware("cpu", "a chip", 1, ".", RUNS))
    return machine


def test_all_runs_are_measured_whatever_fails_and_only_the_failed_again(
    machine, monkeypatch, tmp_path
):
    measured = lambda: measure_targets("a chip", tmp_path, "configs", lambda line: None)
    machine.broken = {"vae": DataError("out | of memory"), "text": UsageError("no such size")}
    table, unmeasured = measured()
    install = 'no_such_package is not installed here: pip install -c constraints.txt -e ".[parity]"'
    assert machine.asked == ["vae", "text", "forward", "attention"]
    assert unmeasured == [
        "eyes: vae failed: out | of memory",
        "words: text refused: no such size",
        f"film: not measured: {install}",
    ]
    rows = table.splitlines()
    assert "| a chunk | ≤ 120 ms |  | vae failed: out / of memory | eyes |" in rows
    assert (
        f"| speed over theirs | ≥ 1 |  | not measured: {install} | film |" in rows
        and f"film: {install}" in rows
    )
    assert "| for its own sake | none set | 3 |  | free |" in rows and any(
        "1 x a chip" in row for row in rows
    )
    assert (tmp_path / "targets.md").read_text() == table + "\n"
    assert json.loads((tmp_path / "film.json").read_text())["settings"]["peer"] is True

    machine.asked, machine.broken = [], {}
    table, unmeasured = measured()
    assert machine.asked == ["vae", "text"] and [reason.split(":")[0] for reason in unmeasured] == [
        "film"
    ]
    assert (
        "| a chunk | ≤ 120 ms | 250 ms | not met | eyes |" in table
        and "| a prompt | ≥ 600 TFLOP/s | 700 TFLOP/s | met | words |" in table
    )

    machine.asked = []
    monkeypatch.setattr(bench, "PEERS", ())
    table, unmeasured = measured()
    assert (
        machine.asked == ["forward"]
        and not unmeasured
        and "| speed over theirs | ≥ 1 | 1.25 | met | film |" in table
    )


def test_a_record_of_something_else_is_no_record_of_the_run(machine, monkeypatch, tmp_path):
    measured = lambda: measure_targets("a chip", tmp_path, "configs", lambda line: None)
    measured()
    record = json.loads((tmp_path / "eyes.json").read_text())
    for other in (
        {"settings": {**record["settings"], "repeats": 7}},
        {"device": {**record["device"], "kind": "another"}},
    ):
        machine.asked = []
        (tmp_path / "eyes.json").write_text(json.dumps(record | other))
        measured()
        assert machine.asked == ["vae"]
    (tmp_path / "eyes.json").write_text(
        json.dumps(record | {"parts": {"vae": {"decode": {"cannot": "why"}}}})
    )
    table, unmeasured = measured()
    assert (
        "eyes: its record says no vae.decode.median" in unmeasured
        and "| its record says no vae.decode.median | eyes |" in table
    )
    machine.asked = []
    (tmp_path / "free.json").write_text("{")
    with pytest.raises(DataError, match=r"free.json is no record of bench.py .* delete it"):
        measured()
    assert not machine.asked
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot make the folder .*file"):
        measure_targets("a chip", tmp_path / "file", "configs", print)


def test_a_run_that_was_interrupted_goes_on_with_its_other_parts(machine, monkeypatch, tmp_path):
    messages = []
    measured = lambda: measure_targets("a chip", tmp_path, "configs", messages.append)[0]
    both = dataclasses.replace(
        RUNS[0], parts=("vae", "text"), targets=(*RUNS[0].targets, *RUNS[1].targets)
    )
    monkeypatch.setitem(TARGETS, "a chip", Hardware("cpu", "a chip", 1, ".", (both, RUNS[3])))
    machine.broken = {"text": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        measured()
    record = json.loads((tmp_path / "eyes.json").read_text())
    assert record["unfinished"] == ["text"] and list(record["parts"]) == ["vae"]
    table = (tmp_path / "targets.md").read_text()
    assert "| 250 ms | not met | eyes |" in table and "| not measured yet: text | eyes |" in table

    machine.asked, machine.broken = [], {}
    measured()
    assert machine.asked == ["text", "attention"] and "unfinished" not in json.loads(
        (tmp_path / "eyes.json").read_text()
    )

    # An unfinished record of other sources restarts, also where nothing knows a commit.
    sources = {"software": {**record["software"], "sources": "abc"}}
    (tmp_path / "eyes.json").write_text(json.dumps(record | sources))
    machine.asked = []
    measured()
    assert machine.asked == ["vae", "text"]

    # Records of other software: a finished one counts and is named; an unfinished one restarts.
    old = {"software": {**record["software"], "commit": "abc"}}
    (tmp_path / "free.json").write_text(
        json.dumps(json.loads((tmp_path / "free.json").read_text()) | old)
    )
    (tmp_path / "eyes.json").write_text(json.dumps(record | old))
    machine.asked = []
    messages.clear()
    heads = measured().splitlines()[-2:]
    assert (
        machine.asked == ["vae", "text"]
        and "free.json is of commit abc, and this is " in messages[0]
    )
    assert heads[0].endswith(": eyes") and heads[1].endswith(": free") and "commit abc" in heads[1]


def test_targets_are_measured_on_any_single_card(machine, tmp_path):
    with pytest.raises(
        UsageError,
        match=r"hold for NVIDIA H200, and jax computes on a chip here: .*pip install .*\[cuda13\]",
    ):
        measure_targets("h200", tmp_path, "configs", print)
    with pytest.raises(UsageError, match="jax sees 8"):
        eight = {"platform": "gpu", "kind": "NVIDIA H200", "count": 8}
        targets.check_device("h200", TARGETS["h200"], eight)
    for kind in ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"):
        one = {"platform": "gpu", "kind": kind, "count": 1}
        targets.check_device("h200", TARGETS["h200"], one)
    with pytest.raises(UsageError, match="no targets for 'h100', did you mean 'h200'"):
        measure_targets("h100", tmp_path, "configs", print)
    assert not machine.asked and not list(tmp_path.iterdir())


def test_every_target_is_a_number_of_its_run():
    runs = [run for hardware in TARGETS.values() for run in hardware.runs]
    for run in runs:
        Settings(**run.settings)
        assert (
            run.targets
            and set(run.parts) <= set(PARTS)
            and all(target.number.split(".")[0] in run.parts for target in run.targets)
        )
        assert all(target.at_least is None or target.at_most is None for target in run.targets)
    assert len({run.name for run in runs}) == len(runs)


def test_a_pool_in_host_memory_leaves_room_on_a_machine_of_128_gib():
    settings = Settings(
        **next(
            run for run in TARGETS["h200"].runs if run.name == "streaming_14b_host_pool"
        ).settings
    )
    sizes = settings.transformer
    array = settings.pool_frames * sizes.num_layers * settings.tokens * sizes.dim * 2
    assert 31 * 2**30 * 0.9 < array <= 32 * 2**30 and 2 * array < 100e9
