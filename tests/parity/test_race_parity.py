"""Self-Forcing's rollout in torch, as `bench.py race` runs it, makes the same films as ours.

Also the machine's peaks, measured with both libraries.
"""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

from tiny_race import TINY_RACE

from benchmarks import machine, roofline
from benchmarks.race import LIMITS
from benchmarks.race_cases import ROUTED, SAME, WHOLE
from benchmarks.race_sides import race_inputs, race_ours, race_theirs


@pytest.fixture
def films(tmp_path):
    """(case, dtype) -> our film and theirs [chunks, c, h, w, ch]."""

    def make(case, dtype):
        inputs, ours, theirs = (
            str(tmp_path / name) for name in ("inputs.npz", "ours.npy", "theirs.npy")
        )
        race_inputs(case.to_dict(), dtype, inputs)
        race_ours(case.to_dict(), dtype, ours)
        made = race_theirs(case.to_dict(), dtype, inputs, theirs)
        assert len(made["seconds"]) == case.chunks and made["torch_device"] in ("cpu", "cuda")
        return np.load(ours), np.load(theirs)

    return make


def apart(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("memory, theirs", [(WHOLE, 21), (SAME, 12), (ROUTED, 12)])
def test_both_sides_make_the_same_film(films, memory, theirs):
    case = dataclasses.replace(TINY_RACE, memory=memory, theirs=theirs)
    ours, other = films(case, "float32")
    same = case.same_chunks
    assert apart(ours[:same], other[:same]) < LIMITS["float32"] / 10
    # Another field gives another film, far beyond rounding. Here frames are retrieved; below the
    # cache is shorter.
    if same < case.chunks:
        assert apart(ours[same:], other[same:]) > 100 * LIMITS["float32"]


def test_a_shorter_cache_is_another_film(films):
    case = dataclasses.replace(TINY_RACE, memory=SAME, theirs=9)
    ours, theirs = films(case, "float32")
    assert (
        apart(ours[:3], theirs[:3]) < LIMITS["float32"] / 10
        and apart(ours[3:], theirs[3:]) > 100 * LIMITS["float32"]
    )


def test_in_bfloat16_they_differ_by_rounding(films):
    ours, theirs = films(TINY_RACE, "bfloat16")
    assert LIMITS["float32"] < apart(ours, theirs) < LIMITS["bfloat16"]


def test_peaks_and_parts_by_both_libraries(monkeypatch):
    for name, tiny in {
        "SIDE": 16,
        "CONVOLVED": (1, 4, 4, 8),
        "ATTENDED": (8, 16, 2, 8),
        "COPIED": 64,
        "REPEATS": 2,
    }.items():
        monkeypatch.setattr(machine, name, tiny)
    for library in ("jax", "torch"):
        found = machine.peaks(library)
        assert (
            found.keys() == {*machine.PEAKS, "bytes_per_second"} and found["bytes_per_second"] > 0
        )
        assert all(
            found[name].keys() == set(machine.DTYPES) and min(found[name].values()) > 0
            for name in machine.PEAKS
        )
        seconds = machine.products(library, TINY_RACE.to_dict(), "bfloat16", 6)
        assert (
            seconds.keys() == roofline.work(TINY_RACE, 6, "bfloat16").keys()
            and min(seconds.values()) > 0
        )
