"""The paper's measures as functions of features, frames and ranges, by hand."""

import numpy as np
import pytest

from causalcine_jax.evaluation.films.cut_finders import cuts_between
from causalcine_jax.evaluation.metrics import ranges
from causalcine_jax.evaluation.metrics.consistency import (
    Pair,
    PairScore,
    faithful_shots,
    inter_shot,
    matched_pairs,
    of_shots,
    within_shot,
)
from causalcine_jax.evaluation.metrics.dynamics import dynamics, luma_cells

EAST, NORTH = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def at(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def test_a_shot_of_equal_frames_is_wholly_consistent():
    assert within_shot(np.stack([EAST] * 5)) == pytest.approx(1)
    assert within_shot(EAST[None]) == 1


def test_consistency_compares_each_frame_with_the_one_before_and_the_first():
    frames = np.stack([at(0), at(60), at(120)])
    # Before: cos 60 twice. First: cos 60, and cos 120 counts as 0.
    assert within_shot(frames) == pytest.approx((0.5 + 0.5 + 0.5 + 0.0) / 4)


def test_each_shot_is_scored_by_the_sampled_frames_in_it():
    features, frames = np.stack([EAST, EAST, NORTH, EAST]), np.array([0, 4, 8, 12])
    shots = [range(0, 8), range(8, 13), range(13, 15), range(10, 13), range(12, 13)]
    # One sampled frame of a longer shot says nothing; a shot of one frame is consistent.
    assert of_shots(features, frames, shots) == [pytest.approx(1), 0, None, None, 1]


def test_an_absence_counts_the_shots_that_were_asked_for_not_the_parts_that_were_found():
    absences = lambda *asked: [p.absence for p in matched_pairs(*asked) if p.character == "anna"]
    cast, false_cut_in_1 = [("anna",), ("leo",), ("anna",)], [0, 1, 1, 2]
    assert absences(cast, false_cut_in_1) == [1]
    assert absences([("anna",), ("leo",), ("leo",), ("anna",)]) == [2]


def test_a_shot_whose_cut_was_missed_may_show_the_character_so_there_is_no_absence():
    cast, found = [("anna",), ("leo",), ("anna",), ("mia",), ("anna",)], [0, 1, 4]
    assert matched_pairs(cast, found) == [Pair("anna", 0, 2, None)]
    cast[2] = ("leo",)
    assert matched_pairs(cast, found) == [Pair("anna", 0, 2, 3)]


def test_pairs_are_grouped_by_character_and_absence_counts_the_shots_between():
    cast = [("anna",), ("leo",), ("anna", "leo"), ("mia",), ("anna",)]
    assert matched_pairs(cast) == [
        Pair("anna", 0, 2, 1),
        Pair("anna", 0, 4, None),  # shot 2 shows her in between
        Pair("anna", 2, 4, 1),
        Pair("leo", 1, 2, 0),
    ]
    scores = [PairScore(pair, value) for pair, value in zip(matched_pairs(cast), (1, 0, 0.5, 0.2))]
    assert inter_shot(scores) == pytest.approx((0.5 + 0.2) / 2)
    assert inter_shot([]) is None


def test_the_gate_passes_shots_that_are_closest_to_their_own_caption():
    alignment = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1], [0.1, 0.3, 0.3]])
    assert faithful_shots(alignment, alignment.diagonal()) == [True, False, True]
    constant_picture = np.tile([0.4, 0.5, 0.1], (3, 1))
    assert sum(faithful_shots(constant_picture, constant_picture.diagonal())) == 1
    # Of shots 0 and 2, found alone, the second is nearest to the caption of the shot between.
    assert faithful_shots(alignment[[0, 1]], alignment[[0, 1], [0, 2]]) == [True, False]
    wrong = PairScore(Pair("anna", 0, 1, 0), 1.0, faithful=False)
    assert (wrong.similarity, wrong.gated) == (1.0, 0.0)


@pytest.mark.parametrize(
    "frames, chosen",
    [
        # What vbench/utils.py get_frame_indices(8, n, "middle") gives, by running it.
        (range(0, 16), [0, 2, 4, 6, 8, 10, 12, 14]),
        (range(0, 17), [0, 2, 4, 6, 8, 10, 12, 15]),
        (range(100, 103), [100, 101, 102, 102, 102, 102, 102, 102]),
        (range(7, 8), [7] * 8),
    ],
)
def test_eight_frames_stand_for_a_range(frames, chosen):
    assert ranges.middles(frames) == chosen


def test_asked_cuts_follow_the_times_of_frames_at_any_rate():
    assert ranges.asked_cuts([1.5, 3.0], np.arange(72) / 16) == [24, 48]
    assert ranges.asked_cuts([1.5, 3.0], np.arange(135) / 30) == [45, 90]
    uneven = np.array([0.0, 0.5, 1.4, 1.5, 2.9, 3.1])
    assert ranges.asked_cuts([1.5], uneven) == [2]
    assert ranges.asked_cuts([1.0, 9.0], np.arange(32) / 16) == [16, 32]  # the film is too short


def test_a_found_range_belongs_to_the_asked_one_that_it_overlaps_most():
    asked = ranges.between([24, 48], 72)
    found = ranges.between([20, 30], 72)
    assert [ranges.most_overlapping(each, asked) for each in found] == [0, 1, 2]


def test_a_gradual_transition_is_cut_in_its_middle():
    shot = lambda start, end: type("Shot", (), {"start": start, "end": end})
    assert cuts_between((shot(0, 10), shot(10, 20), shot(28, 40))) == [10, 24]
    assert cuts_between(()) == []


def test_dynamics_are_grey_levels_a_second_within_shots():
    levels = [0, 2, 4, 100, 100]
    frames = [np.full((48, 80, 3), level, np.uint8) for level in levels]
    cells = np.stack([luma_cells(frame) for frame in frames])
    times = np.arange(5) / 16
    shots = [range(0, 3), range(3, 5), range(5, 5)]
    assert dynamics(cells, times, shots) == [pytest.approx(32, rel=1e-4), 0, None]
    assert dynamics(cells, times * 2, shots)[0] == pytest.approx(16, rel=1e-4)
