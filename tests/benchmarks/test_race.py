"""The race's record: its content, resuming, and the fault of films that differ.

Its peer is tested in tests/parity.
"""

import dataclasses
import json

import numpy as np
import pytest
from tiny_race import TINY_RACE

from benchmarks import machine, race_sides, roofline
from benchmarks import race as race_module
from benchmarks.flops import segments
from benchmarks.race import Race, faults, race, race_table
from benchmarks.race_cases import CASES, ROUTED, RaceCase
from causalcine_jax.errors import DataError, UsageError

DEVICE = {"platform": "cpu", "kind": "cpu", "count": 1}


@pytest.fixture
def sides(monkeypatch):
    """Processes that answer at once.

    A chunk takes ours 1 s and theirs 2 s. `apart` multiplies their film's last chunk.
    """
    told = {"apart": 1.0, "asked": [], "environments": [], "missing": []}

    def in_process(part, settings, environment=None, **given):
        told["asked"].append(part)
        told["environments"].append(environment)
        if part in ("race_peaks", "race_products"):
            names = ("projections", "feed_forward", "attention", "cross_attention")
            rates = {name: {"float32": 1e9} for name in machine.PEAKS}
            return {
                "result": {**rates, "bytes_per_second": 1e9}
                if part == "race_peaks"
                else dict.fromkeys(names, 0.01)
            }
        if part == "race_inputs":
            return {"result": {"parameters": 1}}
        film = np.ones((given["case"]["chunks"], 2), np.float32)
        result = {"seconds": [1.0] * len(film), "memory": {"of": "process", "peak": 10**9}}
        if part == "race_theirs":
            film[-1] *= told["apart"]
            result |= {"seconds": [2.0] * len(film), "torch": "2.8", "torch_device": "cpu"}
        np.save(given["film"], film)
        return {"result": result, "device": DEVICE}

    for module in (race_module, roofline):
        monkeypatch.setattr(module, "in_process", in_process)
    monkeypatch.setattr(race_module, "missing_peers", lambda: told["missing"])
    monkeypatch.setattr(race_module, "software", lambda: {"jax": "0.10.2", "commit": "abc"})
    return told


def test_a_record_holds_both_sides_and_goes_on_where_it_ended(sides, tmp_path):
    out, quiet = tmp_path / "race.json", lambda line: None
    asked = Race(("whole-160", "routed-160"), turns=2)
    record = race(asked, out, quiet)
    assert (
        json.loads(out.read_text()) == record
        and record["schema"] == "causalcine/race@1"
        and record["device"] == DEVICE
    )
    assert sides["asked"].count("race_ours") == sides["asked"].count("race_theirs") == 4
    case = record["cases"]["whole-160"]
    assert (
        case["speed"] == {"median": 2.0, "lowest": 2.0, "highest": 2.0} and case["difference"] == 0
    )
    assert case["ours"]["by_chunk"] == [1.0] * 7 and case["theirs"]["seconds"]["repeats"] == 14
    assert (
        RaceCase.from_dict(case["film"]) == CASES["whole-160"]
        and record["cases"]["routed-160"]["same_chunks"] == 4
    )
    assert not faults(record)

    sides["asked"].clear()
    again = race(Race(("whole-160", "roofline"), turns=3), out, quiet)
    assert sides["asked"] == [
        "race_ours",
        "race_inputs",
        "race_theirs",
        *["race_peaks"] * 2,
        *["race_products"] * 4,
    ]
    full = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # as torch multiplies on GPUs
    assert all(environment == full for environment in sides["environments"])
    assert (
        len(again["cases"]["whole-160"]["turns"]) == 3
        and again["cases"]["routed-160"] == record["cases"]["routed-160"]
    )
    lines = race_table(again).splitlines()
    assert (
        "torch 2.8" in lines[0]
        and sum(line.startswith("| whole-160 | 2.00 s") and "2.00x" in line for line in lines) == 1
    )
    assert any(line.startswith("| whole-160, theirs | 0.01 s, ") and "%" in line for line in lines)


def test_films_that_differ_are_a_fault(sides):
    sides["apart"] = 1.001
    record = race(Race(("whole-160",), turns=1), None, lambda line: None)
    assert (
        len(faults(record)) == 1
        and "whole-160: the films differ by 0.00038, more than 1e-05" in faults(record)[0]
    )
    sides["apart"] = float("nan")
    assert faults(race(Race(("whole-160",), turns=1), None, lambda line: None))
    # With routing, both films are the same only before memory begins.
    sides["apart"] = 2.0
    assert not faults(race(Race(("routed-160",), turns=1), None, lambda line: None))


def test_without_torch_our_side_is_measured(sides):
    sides["missing"] = ["torch", "diffusers"]
    messages = []
    record = race(Race(("whole-160", "roofline"), turns=1), None, messages.append)
    assert record["missing_peers"] == ["torch"] and "torch is not installed" in messages[0]
    assert "theirs" not in record["cases"]["whole-160"] and not faults(record)
    assert list(record["roofline"]["peaks"]) == ["jax"] and "not measured" in race_table(record)


def test_a_record_of_something_else_is_not_gone_on_with(sides, tmp_path, monkeypatch):
    out, messages = tmp_path / "race.json", []
    race(Race(("whole-160",), turns=1), out, messages.append)
    changed = race(Race(("whole-160",), "bfloat16", turns=1), out, messages.append)
    assert len(changed["cases"]["whole-160"]["turns"]) == 1 and any(
        "again from the start" in line for line in messages
    )
    assert sides["environments"][-1] == {}  # bfloat16 has one precision
    for sources, measured in (("1", True), ("1", False), ("2", True)):  # without a commit
        code = {"jax": "0.10.2", "commit": None, "sources": sources}
        monkeypatch.setattr(race_module, "software", lambda code=code: code)
        sides["asked"].clear()
        race(Race(("whole-160",), "bfloat16", turns=1), out, messages.append)
        assert ("race_ours" in sides["asked"]) == measured
    for other in ("[]", "{", '{"schema": "causalcine/desk@1"}'):
        out.write_text(other)
        with pytest.raises(DataError, match="no record of a race"):
            race(Race(("whole-160",)), out, messages.append)
    with pytest.raises(
        UsageError,
        match=r"unknown case 'whole-16', did you mean 'whole-160'.*unknown dtype.*at least 1",
    ):
        Race(("whole-16",), "float16", 0)


def test_our_side_makes_a_film(tmp_path):
    case = dataclasses.replace(TINY_RACE, memory=ROUTED)
    made = race_sides.race_ours(case.to_dict(), "float32", str(tmp_path / "film.npy"))
    assert (
        len(made["seconds"]) == case.chunks
        and min(made["seconds"]) > 0
        and made["memory"]["peak"] > 0
    )
    film = np.load(tmp_path / "film.npy")
    assert film.shape == (case.chunks, *case.chunk_shape[1:]) and np.isfinite(film).all()


def test_work_is_counted_as_elsewhere():
    case, net = TINY_RACE, TINY_RACE.network
    for frames in (6, 21):
        counted = roofline.work(case, frames, "bfloat16")
        own, keys = 3 * case.tokens, frames * case.tokens
        whole = segments(net, own, [keys], 0)
        both = counted["attention"]["flop"] + counted["cross_attention"]["flop"]
        assert both == machine.PASSES * whole.attention
        embedded = 2 * (own * 4 * net.dim * net.in_dim + net.freq_dim * net.dim + 7 * net.dim**2)
        assert counted["projections"]["flop"] + counted["feed_forward"][
            "flop"
        ] == machine.PASSES * (whole.dense - embedded)
    assert (
        roofline.work(case, 6, "float32")["attention"]["bytes"]
        == 2 * roofline.work(case, 6, "bfloat16")["attention"]["bytes"]
    )


def test_a_part_is_held_against_the_slower_of_arithmetic_and_memory():
    parts = {"a": {"flop": 10.0, "bytes": 1.0}, "b": {"flop": 1.0, "bytes": 20.0}}
    best = {"flop_per_second": 10.0, "bytes_per_second": 10.0}
    held = roofline.attained(parts, {"a": 2.0, "b": 4.0}, chunk=7.0, best=best)
    assert (held["parts"]["a"]["attained"], held["parts"]["b"]["attained"]) == (0.5, 0.5)
    assert held["chunk"] == {
        "floor_seconds": 3.0,
        "seconds": 7.0,
        "attained": 3 / 7,
        "rest_seconds": 1.0,
    }
