"""Shot-cut accuracy by its properties and by hand; the cut detector; confidence intervals."""

import json
import math

import numpy as np
import pytest
from evaluation_films import film

from causalcine_jax.evaluation.intervals import (
    Grouped,
    Interval,
    bootstrap_grouped,
    bootstrap_mean,
    bootstrap_others,
    bootstrap_paired,
    wilson,
)
from causalcine_jax.evaluation.metrics.cut_detector import CutDetector
from causalcine_jax.evaluation.metrics.shot_cuts import PAPER_CALIBRATED, Detection, detection, sca
from causalcine_jax.evaluation.storyworld.true_films import true_cuts
from causalcine_jax.evaluation.tables import number_text, plain
from causalcine_jax.render.chart import draw_bars, new_axes, save_figure

FRAMES = 117
ASKED = [21, 45, 69, 93]


def test_sca_is_one_exactly_for_equal_cuts_in_any_order():
    assert sca(ASKED[::-1], ASKED, FRAMES).sca == 1.0
    assert sca([], [], FRAMES).sca == 1.0
    for wrong in ([20, 45, 69, 93], ASKED[:3], [*ASKED, 100], []):
        assert sca(wrong, ASKED, FRAMES).sca < 1.0


def test_sca_by_hand():
    score = sca([24, 45, 70], ASKED, FRAMES)
    assert (score.matched, score.missed, score.extra, score.deviation) == (3, 1, 0, 4.0)
    assert score.nsd == pytest.approx(4 / FRAMES + 0.172)
    assert score.sca == pytest.approx(math.exp(-4 / FRAMES - 0.172))
    assert score.frames_per_cut == pytest.approx(4 / 3)


def test_sca_is_symmetric_under_time_reversal():
    found = [5, 47, 60, 90, 110]
    back = lambda cuts: [FRAMES - cut for cut in cuts]
    assert sca(back(found), back(ASKED), FRAMES) == sca(found, ASKED, FRAMES)


def test_sca_falls_as_the_cuts_drift():
    scores = [sca([cut + offset for cut in ASKED], ASKED, FRAMES).sca for offset in range(11)]
    assert all(a > b for a, b in zip(scores, scores[1:], strict=False))


def test_a_film_without_cuts_has_the_floor_of_the_published_tables():
    floor = sca([], ASKED, FRAMES).sca
    assert floor == pytest.approx(math.exp(-4 * PAPER_CALIBRATED))
    assert 0.500 < floor < 0.510


def test_an_extra_cut_costs_as_much_as_a_missed_one():
    assert sca([*ASKED, 105], ASKED, FRAMES).nsd == pytest.approx(sca(ASKED[1:], ASKED, FRAMES).nsd)


def test_detection_counts_each_cut_once():
    assert detection([44, 46], [45], tolerance=2) == Detection(hits=1, detected=2, asked=1)
    assert detection([10, 14], [12, 8], tolerance=2).hits == 2  # only the crossed pairing hits both
    total = detection([44, 46], [45], 2) + detection([], [7], 2)
    assert (total.precision, total.recall, total.f1) == (0.5, 0.5, 0.5)
    assert detection([], [], 2).f1 == 1.0


def test_a_cut_beyond_the_end_is_missed_and_matches_nothing():
    """A film of 48 frames, which ends before two of its cuts, with a false one at its end."""
    for found in ([32], [32, 45]):
        score = sca(found, [32, 64, 96], 48)
        assert (score.matched, score.missed, score.extra) == (1, 2, len(found) - 1)
        assert detection(found, [32, 64, 96], 12, frames=48) == Detection(1, len(found), 3)
    assert sca([32, 45], [32, 48, 48], 48).sca < sca([32], [32, 48, 48], 48).sca


def test_the_detector_finds_the_cuts_of_true_films():
    total = Detection()
    for index in range(10):
        story, video = film(index)
        total += detection(CutDetector()(video), true_cuts(story), tolerance=0)
    assert total.asked > 15
    assert total.precision >= 0.98 and total.recall >= 0.98


def test_the_detector_ignores_motion_fades_and_short_films():
    ramp = np.linspace(20, 230, 60)[:, None, None, None] * np.ones((1, 48, 80, 3))
    assert CutDetector()(ramp.astype(np.uint8)) == []
    moving = np.full((60, 48, 80, 3), 90, np.uint8)
    for t in range(60):
        x = int(20 + 15 * np.sin(t))
        moving[t, 10:40, x : x + 20] = 255
    assert CutDetector()(moving) == []
    assert CutDetector()(moving[:1]) == []


def test_a_cut_smeared_over_a_frame_is_still_found():
    video = np.full((40, 48, 80, 3), 30, np.uint8)
    video[21:] = 220
    video[20] = 140
    assert CutDetector()(video) in ([20], [21])


def test_wilson_by_hand():
    # 8 of 10 at 95 %: (0.8 + z^2/20 +- z sqrt(0.016 + z^2/400)) / (1 + z^2/10) with z = 1.959964
    interval = wilson(8, 10)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(0.4901625, abs=1e-6)
    assert interval.high == pytest.approx(0.9433178, abs=1e-6)
    assert wilson(0, 50).low == 0.0 and wilson(50, 50).high == 1.0
    chance = wilson(25, 200)
    assert chance.low <= 0.125 <= chance.high < 0.3
    assert wilson(0, 0).count == 0


def test_bootstrap_is_deterministic_leaves_out_nan_and_narrows():
    scores = np.tile([0.0, 0.5, 1.0, np.nan], 20)
    interval = bootstrap_mean(scores)
    assert interval == bootstrap_mean(scores)
    assert interval.count == 60 and interval.value == pytest.approx(0.5)
    assert interval.low < 0.5 < interval.high
    assert bootstrap_mean([1.0] * 20, fractions=True) == wilson(20, 20)
    assert bootstrap_mean([0.0] * 3, fractions=True) == wilson(0, 3)
    assert wilson(1, 1) == bootstrap_mean([1.0], fractions=True)
    assert bootstrap_mean([1.0] * 20)[:3] == (1.0, 1.0, 1.0)  # such as a count per film
    wider = bootstrap_mean(scores[:12])
    assert wider.high - wider.low > interval.high - interval.low


def one_score(statistic) -> Interval:
    one, unanswered = Grouped.of([[1.0, 0.0], []]), Grouped.of([[0.0, 0.0], [1.0]])
    return {
        "mean": lambda: bootstrap_mean([0.5, np.nan]),
        "fraction": lambda: bootstrap_mean([0.5], fractions=True),
        "grouped": lambda: bootstrap_grouped(one),
        "difference": lambda: bootstrap_paired(one, unanswered, np.subtract),
        "others": lambda: bootstrap_others(np.full((2, 2), 0.5), ~np.eye(2, dtype=bool)),
    }[statistic]()


@pytest.mark.parametrize("statistic", ["mean", "fraction", "grouped", "difference", "others"])
def test_one_story_has_a_value_and_no_interval(statistic):
    found = one_score(statistic)
    assert found.value == 0.5 and np.isnan(found.low) and np.isnan(found.high)
    told = json.loads(json.dumps(plain(found), allow_nan=False))
    assert (told["low"], told["high"]) == (None, None)
    assert number_text(told) == "0.500"


def test_a_bar_without_an_interval_is_drawn(tmp_path):
    figure, (axes,) = new_axes(1)
    draw_bars(axes, {"one": [(0.5, None, None), (0.5, 0.2, 0.8)]}, ["mean", "joint"])
    save_figure(figure, tmp_path / "bars.png")
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.5]
