"""The reliability campaign: its mutations, what counts as a fault, and a small part of its fuzz."""

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks import fuzz_reader
from benchmarks.fuzz import fuzz
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


def test_what_cannot_be_tried_is_said():
    with pytest.raises(UsageError, match="unknown case 'fuz', did you mean 'fuzz'"):
        reliability(("fuz",), None, None, lambda line: None)
    with pytest.raises(UsageError, match="repeats must be at least 1"):
        reliability((), 0, None, lambda line: None)
