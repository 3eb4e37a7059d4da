"""The reliability campaign: its mutations, what counts as a fault, and a small part of its fuzz."""

import json
import os
from pathlib import Path
from random import Random

import pytest

from benchmarks import fuzz_reader
from benchmarks.disturbed import Command, Undisturbed, fault_after, names
from benchmarks.endless import endless
from benchmarks.full_disk import full_disk
from benchmarks.fuzz import fuzz
from benchmarks.kills import kills
from benchmarks.mutate import mutated_bytes, mutated_json, mutated_yaml
from benchmarks.reliability import faults, reliability, reliability_table
from causalcine_jax.errors import DataError, UsageError


def test_a_seed_makes_the_same_mutation_again():
    document = {"a": [1, 2], "b": {"c": "text"}}
    for mutated, sound in (
        (mutated_bytes, bytes(range(200))),
        (mutated_json, document),
        (mutated_yaml, "a: 1\nb: 2\nc: 3"),
    ):
        made = [mutated(sound, Random(seed)) for seed in range(50)]
        assert made == [mutated(sound, Random(seed)) for seed in range(50)]
        assert len(set(made)) > 30
    assert document == {"a": [1, 2], "b": {"c": "text"}}


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (None, "read"),
        (UsageError("what is wrong"), "refused"),
        (DataError("damaged\n  unmatched  key"), "refused"),
        (DataError(""), "long"),
        (UsageError("x" * 9000), "long"),
        (KeyError("a"), "traceback"),
        (RecursionError(), "traceback"),
        (MemoryError(), "memory"),
    ],
)
def test_what_counts_as_a_fault(raised, outcome):
    def read(path):
        if raised:
            raise raised

    assert fuzz_reader._outcome(read, Path("x"))["outcome"] == outcome


def test_running_out_of_memory_counts_also_where_it_is_reported_well():
    def read(path):
        try:
            raise MemoryError
        except MemoryError as error:
            raise DataError("too large") from error

    assert fuzz_reader._outcome(read, Path("x"))["outcome"] == "memory"


def test_a_small_part_finds_no_fault():
    part = fuzz(36, 1, None, lambda line: None)
    assert part["faults"] == [] and sum(map(sum, map(dict.values, part["outcomes"].values()))) == 36
    record = {"parts": {"fuzz": part}}
    assert faults(record) == [] and "| fuzz | 36 | 0 |" in reliability_table(record)
    part["faults"] = [{"kind": "story", "outcome": "traceback", "peak": 3}]
    assert faults(record) == ["fuzz: 1 of 36 failed, first kind story, outcome traceback"]
    assert json.dumps(record)


@pytest.mark.parametrize(
    ("found", "code", "again", "fault"),
    [
        ({"film": "a", "record": "b"}, 0, None, None),
        ({"film": "a"}, 0, None, "ended with code 0 before its result was complete"),
        ({"film": "x"}, 75, None, "after the disturbance: film differ"),
        (ValueError("cut off"), -9, None, "half-written: cut off"),
        ({}, -9, ["no-such-command"], "given again, it ended with code 2: error: unknown command"),
        ({"film": "a"}, -9, ["--version"], "given again:  missing ['record']"),
    ],
)
def test_what_counts_as_a_fault_after_a_kill(tmp_path, found, code, again, fault):
    def result(out):
        if isinstance(found, Exception):
            raise found
        return found

    command = Command(lambda out: [], lambda out: again, result)
    sound = Undisturbed({"film": "a", "record": "b"}, names(tmp_path), 1.0, 1)
    (tmp_path / "place").mkdir()
    said = fault_after(command, tmp_path / "place", sound, code)
    assert said == fault or said.startswith(fault)


def test_files_left_over_count_as_a_fault(tmp_path):
    place, results = tmp_path / "place", iter([{}, {}, {"film": "a"}])
    (place / "out" / "checkpoints" / "4").mkdir(parents=True)
    (place / "out" / "checkpoints" / "4" / "1f3a").write_text("arrays")
    (place / "out" / ".model.partial-x").write_text("half a model")
    command = Command(lambda out: [], lambda out: ["--version"], lambda out: next(results))
    said = fault_after(command, place, Undisturbed({"film": "a"}, frozenset(), 1.0, 1), -9)
    assert said == "given again, files are left over or missing: ['out/.model.partial-x']"


def test_a_few_kills_and_chunks_find_no_fault():
    part = kills(2, 0, None, lambda line: None, only=("convert",))
    assert part["faults"] == [] and sum(part["exit_codes"]["convert"].values()) == 2
    assert "SIGKILL -9" in part["exit_codes"]["convert"]
    part = endless(48, lambda line: None)
    assert part["latents_per_chunk"] == 3 * 4 * 8 * 16 * 4
    assert list(part["resident_bytes"])[-1] == "48"


@pytest.mark.slow
def test_kills_of_all_commands_find_no_fault():
    assert kills(11, 1, None, lambda line: None)["faults"] == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_full_disks_of_all_commands_find_no_fault():
    assert full_disk(11, 1, None, lambda line: None)["faults"] == []


def test_parts_of_an_earlier_run_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.fuzz.fuzz", lambda *_: {"count": 1, "faults": []})
    kept = {"schema": "causalcine/reliability@1", "parts": {"kills": {"count": 2, "faults": []}}}
    (tmp_path / "a.json").write_text(json.dumps(kept))
    reliability(("fuzz",), 1, tmp_path / "a.json", lambda line: None)
    parts = json.loads((tmp_path / "a.json").read_text())["parts"]
    assert parts["kills"] == {"count": 2, "faults": []}
    assert parts["fuzz"]["count"] == 1 and parts["fuzz"]["date"]
    for other in ('{"parts": {}}', "{"):
        (tmp_path / "a.json").write_text(other)
        with pytest.raises(DataError, match=r"a\.json is no record of reliability"):
            reliability(("fuzz",), 1, tmp_path / "a.json", lambda line: None)
        assert (tmp_path / "a.json").read_text() == other


def test_what_cannot_be_tried_is_said():
    with pytest.raises(UsageError, match="unknown case 'fuz', did you mean 'fuzz'"):
        reliability(("fuz",), None, None, lambda line: None)
    with pytest.raises(UsageError, match="repeats must be at least 1"):
        reliability((), 0, None, lambda line: None)
