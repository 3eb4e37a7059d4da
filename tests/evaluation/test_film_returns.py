"""What stands beside the similarity of returns, from features made by hand."""

import json

import numpy as np
import pytest

from causalcine_jax.evaluation.films.measure import means
from causalcine_jax.evaluation.films.returns import bounds, crossed
from causalcine_jax.evaluation.films.shot_features import packed, unpacked
from causalcine_jax.evaluation.intervals import bootstrap_others


def feature(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def film(story: str, before: float, back: float, labels: dict, introduced=True) -> dict:
    """A subject in shot 0 and, after one shot away, in shot 2, at these angles."""
    similarity = float(feature(before) @ feature(back))
    values = {
        "subject": None, "background": None, "alignment": None, "dynamics": [1.0],
        "pairs": [
            {
                "character": "anna", "first": 0, "second": 2, "absence": 1,
                "similarity": similarity, "gated": similarity, "introduced": introduced,
            }
        ],
        "shot_features": packed([feature(each) for each in (before, 90, back)]),
    }  # fmt: skip
    values["means"] = means(values)
    return {"story": story, "labels": labels, "asked": values, "found": values}


def test_features_are_read_back_as_they_were_written():
    features = np.random.default_rng(0).standard_normal((5, 768))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    again = unpacked(json.loads(json.dumps(packed(list(features)))))
    np.testing.assert_allclose(again @ again.T, features @ features.T, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1)


def test_chance_pairs_the_shots_of_different_stories_of_the_same_kind():
    person, animal = {"kind": "person"}, {"kind": "animal"}
    films = [
        film("a", 0, 10, person),
        film("b", 60, 70, person),
        film("c", 200, 200, animal),  # the only animal: it has no other
        film("d", 300, 300, {}),
    ]
    found = bounds(films, "asked")["chance"]
    expected = np.mean([np.cos(np.radians(70)), np.cos(np.radians(50))])
    assert found.value == pytest.approx(expected, abs=1e-3) and found.count == 2
    assert bounds(films[2:], "found")["chance"].count == 0
    assert bounds([], "asked")["chance"].count == 0


def test_chance_averages_a_storys_seeds_first():
    person = {"kind": "person"}
    films = [film("a", angle, angle, person) for angle in (0, 90)] + [film("b", 0, 0, person)]
    found = bounds(films, "asked")["chance"]
    assert found.value == pytest.approx(0.5, abs=1e-3) and found.count == 2


def test_chance_is_far_below_returns_that_are_the_same_subject():
    draw, person = np.random.default_rng(1), {"kind": "person"}
    angles = draw.uniform(0, 360, 40)
    films = [film(f"s{n}", angle, angle, person) for n, angle in enumerate(angles)]
    found = bounds(films, "asked")["chance"]
    every = np.cos(np.radians(angles[:, None] - angles[None]))
    assert found.value == pytest.approx((every.sum() - 40) / (40 * 39), abs=1e-3)
    assert found.low < found.value < found.high < 0.5


def test_redrawn_things_are_no_others_of_themselves():
    """Scores are 1 with oneself and 0 with the others: copies must not count."""
    others = ~np.eye(12, dtype=bool)
    found = bootstrap_others(np.eye(12), others)
    assert tuple(found) == (0, 0, 0, 12)
    by_row = np.repeat(np.arange(12.0)[:, None], 12, axis=1)
    found = bootstrap_others(by_row, others)
    assert found.value == pytest.approx(5.5) and 3 < found.low < 5 < 6 < found.high < 8


def test_only_returns_whose_first_shot_shows_the_subject_are_counted():
    values = film("a", 0, 60, {}, introduced=False)["asked"]["means"]
    assert values["returns"] == pytest.approx(0.5)
    assert values["returns_passed"] == 0 and values["returns_counted"] is None
    values = film("a", 0, 60, {}, introduced=True)["asked"]["means"]
    assert values["returns_passed"] == 1 and values["returns_counted"] == pytest.approx(0.5)
    unknown = film("a", 0, 60, {}, introduced=None)["asked"]["means"]
    assert unknown["returns_passed"] is None


def test_two_shots_in_a_row_are_the_bound_without_absence():
    one = film("a", 0, 60, {})
    one["asked"]["pairs"].append(one["asked"]["pairs"][0] | {"absence": 0, "similarity": 0.9})
    one["asked"]["means"] = means(one["asked"])
    found = bounds([one, film("b", 0, 0, {})], "asked")["no_absence"]
    assert found.value == pytest.approx(0.9) and found.count == 1
    assert one["asked"]["means"]["returns"] == pytest.approx(0.5)


def test_both_labels_are_crossed():
    labels = lambda away, again: {"away": away, "described_again": again}
    films = [
        film("a", 0, 60, labels("1", "true")),
        film("b", 0, 0, labels("1", "false")),
        film("c", 0, 90, labels("1", "false"), introduced=False),
        film("d", 0, 0, {}),
    ]
    rows = {(row["away"], row["described_again"]): row for row in crossed(films)}
    assert set(rows) == {("1", "true"), ("1", "false")}
    assert rows["1", "true"]["returns"].value == pytest.approx(0.5)
    assert rows["1", "false"]["returns"].value == pytest.approx(0.5)
    assert rows["1", "false"]["returns_passed"].value == pytest.approx(0.5)
    assert rows["1", "true"]["returns_passed"].low < 0.5, "one story that passes proves little"
    assert rows["1", "false"]["returns_counted"].value == pytest.approx(1)
