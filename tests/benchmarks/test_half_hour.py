"""The half hour on a rented accelerator: time limits, what is kept, what comes home."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks import REPOSITORY, ceilings
from benchmarks.command_line import parse
from benchmarks.half_hour import collect, commands, prepare
from benchmarks.half_hour.collect import BEGIN, END
from benchmarks.half_hour.parts import GB, LIMITS, Part, parts
from benchmarks.settings import Settings
from benchmarks.target_list import TARGETS
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.planning import attained
from causalcine_jax.planning.hardware import CHIPS

CARD = "NVIDIA H100 80GB HBM3"
WRITES = (
    "import json, sys; json.dump({'date': '2030-01-02', 'device': {'kind': '" + CARD + "'}, "
    "'parts': {'streaming': {'minute_1': {'fps': 9.0}}}}, open(sys.argv[-1], 'w'))"
)


@pytest.fixture
def machine(monkeypatch):
    """A device of 80 GB; parts are short Python programs. Their outcome is by their words."""
    answer = {"result": {"memory": 80 * GB, "cards": []}}
    answer["device"] = {"kind": CARD, "count": 1, "platform": "gpu"}
    monkeypatch.setattr(commands, "in_process", lambda part, settings: answer)
    monkeypatch.setattr(commands, "software", lambda: {"commit": "abc"})
    monkeypatch.setattr(commands, "BENCH", (sys.executable, "-c"))
    part = lambda name, code, seconds=60, memory=0: Part(name, seconds, (code,), (code,), memory)
    made = [
        part("streaming_14b", WRITES),
        part("slow", "import time; time.sleep(60)", seconds=1),
        part("fails", "raise SystemExit('out of luck')"),
        part("large", WRITES, memory=90 * GB),
    ]
    monkeypatch.setattr(commands, "parts", lambda command, memory: made)
    return made


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A checkout to collect into, with an empty page and its own rates of plans."""
    home = tmp_path / "home"
    (home / "benchmarks" / "results").mkdir(parents=True)
    (home / "docs").mkdir()
    (home / "docs" / "performance.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    (home / "attained.json").write_text(attained.FILE.read_text())
    monkeypatch.setattr(attained, "FILE", home / "attained.json")
    return home


def measured(folder):
    said = []
    record = commands.measure(2, folder / "out", folder / "kept", False, said.append)
    assert json.loads((folder / "out" / "half_hour_2.json").read_text()) == record
    return said, commands.unmeasured(record)


def test_a_command_goes_on_after_a_part_that_fails_and_again_with_what_is_missing(
    machine, tmp_path
):
    said, missing = measured(tmp_path)
    assert said[0].startswith("streaming_14b: measured in ")
    assert missing == [
        "slow: stopped after 1 s",
        "fails: failed with code 1: out of luck",
        "large: it needs 90 GB of device memory, and here are 80 GB",
    ]
    machine[2] = Part("fails", 60, (WRITES,), ())
    before = (tmp_path / "kept" / "streaming_14b.json").stat().st_mtime_ns
    assert [line.split(":")[0] for line in measured(tmp_path)[1]] == ["slow", "large"]
    assert (tmp_path / "kept" / "streaming_14b.json").stat().st_mtime_ns == before


def test_parts_find_what_earlier_ones_compiled_and_the_record_says_so(machine, tmp_path):
    compiles = (
        "import os; folder = os.environ['JAX_COMPILATION_CACHE_DIR']; "
        "assert os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] == '0'; "
        "open(os.path.join(folder, f'program-{os.getpid()}-cache'), 'w')"
    )
    machine[:] = [Part(name, 60, (compiles,), ()) for name in ("one", "two")]
    record = commands.measure(1, tmp_path / "out", tmp_path / "kept", False, str)
    assert [part["programs"] for part in record["parts"]] == [
        {"found": 0, "added": 1},
        {"found": 1, "added": 1},
    ]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["half_hour_1.json"]


def test_code_without_a_commit_is_known_by_its_sources(machine, monkeypatch, tmp_path):
    machine[:] = machine[:1]
    for sources, again in (("1", True), ("1", False), ("2", True)):
        code = {"commit": None, "sources": sources}
        monkeypatch.setattr(commands, "software", lambda code=code: code)
        kept = tmp_path / "kept" / "streaming_14b.json"
        before = kept.stat().st_mtime_ns if kept.exists() else None
        measured(tmp_path)
        assert (kept.stat().st_mtime_ns != before) == again


def test_nothing_is_measured_on_a_cpu_unless_it_is_a_rehearsal(machine, monkeypatch, tmp_path):
    here = {"kind": "cpu", "count": 1, "platform": "cpu"}
    answer = {"result": {"memory": None, "cards": []}, "device": here}
    monkeypatch.setattr(commands, "in_process", lambda part, settings: answer)
    machine[:] = machine[:1]
    where = (tmp_path / "out", tmp_path / "kept")
    with pytest.raises(DataError, match=r"jax computes on the CPU here.*install.*--rehearse"):
        commands.measure(2, *where, False, str)
    assert commands.measure(2, *where, True, str)["parts"][0]["code"] == 0


def test_results_come_home_labelled_with_their_card(machine, home, tmp_path):
    measured(tmp_path)
    table = collect.collect([tmp_path / "out" / "half_hour_2.json"], home)
    assert f"decoding included | ≥ 5 | 9 | on {CARD} |" in table
    shown = (home / "docs" / "performance.md").read_text()
    assert shown.startswith("before\n") and shown.endswith(f"{END}\nafter\n")
    assert table in shown and "old" not in shown and "slow: stopped after 1 s" in shown
    [file] = (home / "benchmarks" / "results").iterdir()
    assert file.name == "2030-01-02_half_hour_nvidia_h100_80gb_hbm3.json"
    rehearsal = tmp_path / "rehearsal.json"
    rehearsal.write_text(json.dumps(json.loads(file.read_text())["commands"][0] | {"rehearsal": 1}))
    with pytest.raises(DataError, match="is a rehearsal"):
        collect.collect([rehearsal], home)


def results(folder, command: int, **parts):
    """Writes half_hour_N.json of a lease: part -> its record, None if it was not measured."""
    made = [
        {"part": name, "code": None if record is None else 0, "record": record, "why": "no time"}
        for name, record in parts.items()
    ]
    made = [one | {"seconds": 1.0, "cpu_seconds": 1.0} for one in made]
    head = {"schema": commands.SCHEMA, "command": command, "rehearsal": False}
    device = {"kind": CARD, "count": 1, "platform": "gpu"}
    folder.mkdir(exist_ok=True)
    file = folder / f"half_hour_{command}.json"
    file.write_text(json.dumps(head | {"device": device, "parts": made}))
    return file


def test_what_was_measured_is_kept_when_other_leases_come_home(home, tmp_path):
    streamed = lambda fps: {
        "date": "2030-01-02",
        "parts": {"streaming": {"minute_1": {"fps": fps}}},
    }
    one = results(tmp_path / "one", 2, streaming_14b=streamed(9.0), streaming_14b_float8=None)
    two = results(tmp_path / "two", 2, streaming_14b=None, streaming_14b_float8=streamed(8.0))
    three = results(tmp_path / "two", 3, **{"streaming_1.3b": streamed(30.0)})
    for calls in ([[one, two, three]], [[two, one, three]], [[one], [two], [three], [one]]):
        for files in calls:
            table = collect.collect(files, home)
        assert all(f"| {fps} | on {CARD} |" in table for fps in (9, 8, 30))
        [file] = (home / "benchmarks" / "results").iterdir()
        kept = json.loads(file.read_text())["commands"]
        assert [part["code"] for record in kept for part in record["parts"]] == [0, 0, 0]
        assert "Not measured" not in (home / "docs" / "performance.md").read_text()
        with pytest.raises(DataError, match="is several commands, collected"):
            collect.collect([file], home)
        file.unlink()


def test_the_rates_of_14b_go_before_those_of_1_3b(home, tmp_path):
    rates = lambda width, rate: {
        "date": "2030-01-02",
        "device": {"kind": CARD},
        "parts": {
            "ceilings": {
                width: {"fraction": rate},
                "attention": {"fraction": rate},
                "launch_seconds": {"seconds": rate},
            }
        },
    }
    large, small = rates("wide products", 0.75), rates("narrow products", 0.5)
    file = results(tmp_path, 1, **{"ceilings_14b": large, "ceilings_1.3b": small})
    collect.collect([file], home)
    kept = {
        kind: rate["expected"]
        for kind, rate in json.loads(attained.FILE.read_text())["h100"].items()
    }
    assert kept == {
        "wide products": 0.75,
        "narrow products": 0.5,
        "attention": 0.75,
        "launch_seconds": 0.75,
    }


def test_a_launch_is_one_of_those_that_plans_count(monkeypatch):
    monkeypatch.setattr(ceilings, "_median", lambda call, settings: call() is None or 1.0)
    kernels = 1 / ceilings._launch(Settings("storyworld-base"))
    assert kernels >= 2 * ceilings.ROUNDS  # a round has a product and a counter at least


def test_measured_ceilings_become_the_rates_of_plans(home):
    record = {
        "date": "2030-01-02T00:00:00",
        "device": {"kind": CARD},
        "parts": {
            "ceilings": {
                "wide products": {"fraction": 0.7512},
                "memory": {"fraction": 0.95},
                "launch_seconds": {"seconds": 3e-6},
            }
        },
    }
    assert set(ceilings.keep_rates(record, "a file")) == {
        "wide products",
        "memory",
        "launch_seconds",
    }
    kept = json.loads(attained.FILE.read_text())["h100"]
    assert kept["wide products"]["expected"] == 0.751 and kept["wide products"]["how"] == "measured"
    assert kept["memory"]["high"] == 1.0 and kept["launch_seconds"]["expected"] == 3e-6
    unknown = record | {"device": {"kind": "NVIDIA GeForce RTX 4090"}}
    wider = record | {"settings": {"dtype": "float32"}}
    failed = {"device": None, "parts": {"ceilings": {"failed": "out of memory"}}}
    for other, why in (
        (unknown, "plans do not know NVIDIA GeForce RTX 4090"),
        (wider, "measured in float32"),
        (failed, "ceilings were not measured"),
    ):
        assert ceilings.keep_rates(other, "a file") == []
        assert why in ceilings.why_not(other)


@pytest.mark.parametrize("command", LIMITS)
@pytest.mark.parametrize("memory", [None, 24 * GB, 80 * GB, 141 * GB])
def test_every_parts_words_are_those_of_bench_and_most_fit_their_time(command, memory):
    found = parts(command, memory)
    for part in found:
        for words in (part.words, part.rehearsal):
            assert not words or parse(list(words)).parts
    # The last part may be cut short if all others take all of their time.
    assert sum(part.seconds for part in found[:-1]) <= LIMITS[command]
    assert LIMITS[command] <= 600


def test_parts_ask_for_the_memory_that_plans_say_they_take():
    plans = json.loads(
        (REPOSITORY / "benchmarks/results/2026-11-30_compile_plans.json").read_text()
    )
    programs = lambda words: next(p["programs"] for p in plans if words in p["command"])
    (training,) = programs("wan.py:1.3b")
    film = max(programs("wan_14b --rollout"), key=lambda one: one["total"])
    text = training["parts"]["text_encoder, not trained"]["device"]  # a film holds it too
    pool = film["parts"]["pool"]["device"]
    for card, frames in (("h100", 21), ("h200", 60)):
        memory = CHIPS[card].memory
        (streaming, _) = parts(2, memory)
        assert ("--pool-frames" in streaming.words) == (frames == 21)
        assert str(frames) in streaming.words or frames == 60
        assert film["total"] - pool + text + pool * frames / 60 <= streaming.memory <= memory
    (_, trained, *_) = parts(3, CHIPS["h200"].memory)
    assert training["total"] <= trained.memory <= CHIPS["h200"].memory


def test_a_lease_of_half_an_hour_has_time_to_start_and_install():
    assert sum(LIMITS.values()) <= 24 * 60


def test_targets_are_measured_by_parts_of_their_names():
    names = {part.name for command in LIMITS for part in parts(command, None)}
    runs = {run.name for run in TARGETS["h200"].runs}
    assert runs - names == {"start_14b", "forward_1.3b", "streaming_14b_host_pool"}


def test_preparing_again_leaves_no_wheel_of_before(monkeypatch, tmp_path):
    def download(command, **how):
        version, wheels = command[command.index("--python-version") + 1], tmp_path / "wheels"
        (wheels / f"flax-{version}.whl").write_text("a wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(prepare.subprocess, "run", download)
    sites = set()
    for python in ("3.11", "3.12", "3.12"):
        assert prepare.prepare(tmp_path, python, False) == len("a wheel")
        assert [file.name for file in (tmp_path / "wheels").iterdir()] == [f"flax-{python}.whl"]
        [site] = re.findall(r"^site=.*", (tmp_path / "environment.sh").read_text(), re.MULTILINE)
        sites.add(site)
    assert len(sites) == 2  # other wheels, another folder to install into
    with pytest.raises(UsageError, match=r"--python must be a version such as 3\.12, not 'py312'"):
        prepare.prepare(tmp_path, "py312", False)


def test_wheels_are_pinned_for_the_machines_python():
    assert prepare._pinned("3.12")["flax"].startswith("flax==0.12.12")
    assert prepare._pinned("3.11")["flax"].startswith("flax==0.12.8")
    assert set(prepare.PACKAGES) <= prepare._pinned("3.12").keys()
