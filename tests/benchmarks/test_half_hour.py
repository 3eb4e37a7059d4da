"""The half hour on a rented accelerator: time limits, what is kept, what comes home."""

import json
import sys

import pytest

from benchmarks import ceilings
from benchmarks.command_line import parse
from benchmarks.half_hour import collect, commands, prepare
from benchmarks.half_hour.collect import BEGIN, END
from benchmarks.half_hour.parts import GB, LIMITS, Part, parts
from benchmarks.target_list import TARGETS
from causalcine_jax.errors import DataError
from causalcine_jax.planning import attained

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


def test_results_come_home_labelled_with_their_card(machine, monkeypatch, tmp_path):
    measured(tmp_path)
    home, page = tmp_path / "home", tmp_path / "home" / "docs" / "performance.md"
    (home / "benchmarks" / "results").mkdir(parents=True)
    page.parent.mkdir()
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    table = collect.collect([tmp_path / "out" / "half_hour_2.json"], home)
    assert f"decoding included | ≥ 5 | 9 | on {CARD} |" in table
    shown = page.read_text()
    assert shown.startswith("before\n") and shown.endswith(f"{END}\nafter\n")
    assert table in shown and "old" not in shown and "slow: stopped after 1 s" in shown
    [file] = (home / "benchmarks" / "results").iterdir()
    assert file.name == "2030-01-02_half_hour_nvidia_h100_80gb_hbm3.json"
    rehearsal = tmp_path / "rehearsal.json"
    rehearsal.write_text(json.dumps(json.loads(file.read_text())["commands"][0] | {"rehearsal": 1}))
    with pytest.raises(DataError, match="is a rehearsal"):
        collect.collect([rehearsal], home)


def test_measured_ceilings_become_the_rates_of_plans(monkeypatch, tmp_path):
    file = tmp_path / "attained.json"
    file.write_text(attained.FILE.read_text())
    monkeypatch.setattr(attained, "FILE", file)
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
    kept = json.loads(file.read_text())["h100"]
    assert kept["wide products"]["expected"] == 0.751 and kept["wide products"]["how"] == "measured"
    assert kept["memory"]["high"] == 1.0 and kept["launch_seconds"]["expected"] == 3e-6
    unknown = record | {"device": {"kind": "NVIDIA GeForce RTX 4090"}}
    assert ceilings.keep_rates(unknown, "a file") == []
    wider = record | {"settings": {"dtype": "float32"}}
    assert ceilings.keep_rates(wider, "a file") == []


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


def test_a_lease_of_half_an_hour_has_time_to_start_and_install():
    assert sum(LIMITS.values()) <= 24 * 60


def test_targets_are_measured_by_parts_of_their_names():
    names = {part.name for command in LIMITS for part in parts(command, None)}
    runs = {run.name for run in TARGETS["h200"].runs}
    assert runs - names == {"start_14b", "forward_1.3b", "streaming_14b_host_pool"}


def test_wheels_are_pinned_for_the_machines_python():
    assert prepare._pinned("3.12")["flax"].startswith("flax==0.12.12")
    assert prepare._pinned("3.11")["flax"].startswith("flax==0.12.8")
    assert set(prepare.PACKAGES) <= prepare._pinned("3.12").keys()
