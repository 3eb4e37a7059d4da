"""`causalcine evaluate --compare`: two systems by the differences per story."""

import json

import numpy as np
import pytest

from causalcine_jax.commands import evaluate
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.films.compare import comparison


def film(story: str, sca: float, missed: float = 0.0, **changed) -> dict:
    """A film without networks: cuts and dynamics alone."""
    means = dict.fromkeys(
        ("alignment", "subject", "background", "inter_shot", "returns", "returns_gated")
    )
    return {
        "story": story,
        "story_sha256": f"hash of {story}",
        "aesthetic": None,
        "cuts": {"sca": sca, "missed": missed, "extra": 0.0},
        "asked": {"means": means | {"dynamics": 5.0}},
        **changed,
    }


def measures(films: dict[str, dict], **changed) -> dict:
    settings = {"every": 1, "cuts": "pixels", "dtype": "float32", "weights_sha256": {}}
    parts = {"settings": settings, "per_film": films, "bad": {}, "without_film": []}
    return parts | changed


def test_the_difference_is_of_the_same_stories_seeds_averaged_first():
    hard, easy = 0.2, 0.9
    first = {f"0/s{n}": film(f"s{n}", hard if n % 2 else easy) for n in range(20)}
    second = {
        f"{seed}/s{n}": film(f"s{n}", (hard if n % 2 else easy) + 0.05 + 0.02 * (seed - 0.5))
        for seed in (0, 1)
        for n in range(20)
    }
    second["0/only"] = film("only", 0.0)
    found = comparison(measures(first), measures(second))["measures"]
    assert found["sca"]["first"]["value"] == pytest.approx(0.55)
    assert found["sca"]["second"]["value"] == pytest.approx(0.60)
    assert found["sca"]["difference"]["value"] == pytest.approx(0.05)
    assert found["sca"]["difference"]["count"] == 20
    # Each mean is uncertain by the stories' spread, their difference is not.
    assert found["sca"]["first"]["high"] > found["sca"]["second"]["low"]
    assert found["sca"]["difference"]["low"] == pytest.approx(0.05)
    assert found["dynamics"]["difference"]["value"] == 0
    assert "alignment" not in found


def test_a_failed_film_counts_as_0_where_0_is_the_worst():
    first = measures({"a": film("a", 1.0, 0.0), "b": film("b", 1.0, 2.0)})
    second = measures({"a": film("a", 1.0, 0.0)}, bad={"b": "cannot be read"})
    found = comparison(first, second)
    assert found["measures"]["sca"]["second"]["value"] == 0.5
    assert found["measures"]["sca"]["difference"]["value"] == -0.5
    assert found["measures"]["missed"]["difference"]["count"] == 1
    assert found["failed"] == [[], ["b"]]


def test_what_was_measured_differently_is_refused():
    one = measures({"a": film("a", 1.0)})
    other = measures({"a": film("a", 1.0, story_sha256="another")})
    other["settings"] = one["settings"] | {"cuts": "transnet"}
    with pytest.raises(UsageError, match=r"cuts was 'pixels' and 'transnet'.*story a is another"):
        comparison(one, other)
    with pytest.raises(UsageError, match="no measured story in common"):
        comparison(one, measures({"b": film("b", 1.0)}))


def test_the_command_prints_a_table_and_writes_it(tmp_path, capsys):
    draw = np.random.default_rng(0)
    for name, better in (("a", 0.0), ("b", 0.2)):
        (tmp_path / name).mkdir()
        films = {f"s{n}": film(f"s{n}", better + 0.1 * draw.random()) for n in range(9)}
        (tmp_path / name / "measures.json").write_text(json.dumps(measures(films)))
    words = ["--compare", str(tmp_path / "a"), str(tmp_path / "b" / "measures.json")]
    evaluate.main([*words, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "SCA" in line)
    assert row.count("[") == 3 and "] *" in row
    assert (tmp_path / "out" / "comparison.md").read_text() in printed
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert report["measures"]["sca"]["difference"]["low"] > 0
    with pytest.raises(UsageError, match="--returns cannot be with --compare"):
        evaluate.main([*words, "--returns", "3"])
    with pytest.raises(UsageError, match=r"there is no .*measures\.json"):
        evaluate.main(["--compare", str(tmp_path), str(tmp_path / "a")])


def test_one_story_tells_no_systems_apart(tmp_path, capsys):
    for name, score in (("a", 0.2), ("b", 0.9)):
        (tmp_path / name).write_text(json.dumps(measures({"s": film("s", score)})))
    out = tmp_path / "out"
    words = ["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]
    evaluate.main(words)
    row = next(line for line in capsys.readouterr().out.splitlines() if "SCA" in line)
    assert "0.700" in row and "[" not in row and "*" not in row
    report = json.loads((out / "comparison.json").read_text())
    assert report["measures"]["sca"]["difference"]["high"] is None


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("settings", ["x"], ["settings"]),
        ("per_film", [1], ["per_film"]),
        ("bad", "b", ["bad"]),
        ("without_film", [1], ["without_film"]),
        ("per_film", {"a": 3, "b": 4}, ["the film a", "the film b"]),
        ("per_film", {"a": film("a", 1.0) | {"story": 3}}, ["the film a"]),
        ("per_film", {"a": film("a", 1.0) | {"cuts": {}}}, ["the film a"]),
        ("per_film", {"a": film("a", 1.0) | {"asked": None}}, ["the film a"]),
        ("per_film", {"a": film("a", "1.0"), "b": film("b", 1.0)}, ["the film a"]),
        ("per_film", {"a": film("a", 10**400)}, ["the film a"]),
        ("per_film", {"a": film("a", -np.inf)}, ["the film a"]),
        ("per_film", {"a": film("a", np.nan)}, ["the film a"]),
        ("per_film", {"a": film("a", 1.0, story_sha256=[])}, ["the film a"]),
    ],
)
def test_edited_measures_are_refused_with_all_faults(tmp_path, field, value, named):
    (tmp_path / "a.json").write_text(json.dumps(measures({"a": film("a", 1.0)})))
    (tmp_path / "b.json").write_text(json.dumps(measures({"a": film("a", 1.0)}) | {field: value}))
    words = ["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    with pytest.raises(UsageError) as refused:
        evaluate.main(words)
    faults = str(refused.value).removeprefix(f"--compare {tmp_path / 'b.json'}: ").split("; ")
    assert faults == [f"{each} is not as it was written: measure it again" for each in named]


@pytest.mark.parametrize("same", [".", "measures.json"])
def test_measures_are_not_compared_with_themselves(tmp_path, same):
    (tmp_path / "measures.json").write_text(json.dumps(measures({"a": film("a", 1.0)})))
    with pytest.raises(UsageError, match="twice: name the measures of two systems"):
        evaluate.main(["--compare", str(tmp_path), f"{tmp_path}/{same}"])
