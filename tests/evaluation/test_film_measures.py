"""`causalcine evaluate --films`: films made by hand, of which every answer is known."""

import json

import numpy as np
import pytest
import yaml
from evaluation_films import WORLD
from small_story_set import small_set

from benchmarks import film_measures
from benchmarks.random_scorers import write_scorers
from benchmarks.rank_agreement import rank_agreement
from causalcine_jax.commands import evaluate
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation.films import run
from causalcine_jax.evaluation.films.compare import comparison
from causalcine_jax.evaluation.films.features import FilmFeatures
from causalcine_jax.evaluation.films.measure import (
    FirstPass,
    MeasureSettings,
    _of_ranges,
    measure_film,
)
from causalcine_jax.evaluation.films.shot_features import unpacked
from causalcine_jax.evaluation.films.stories import (
    asked_of,
    film_stories,
    film_story,
    find_films,
)
from causalcine_jax.evaluation.metrics.shot_cuts import sca
from causalcine_jax.evaluation.storyworld.free_films import FilmScores, ShotScores
from causalcine_jax.render.mp4 import FilmWriter, read_film
from causalcine_jax.scorers.scorers import Scorers
from causalcine_jax.story_sets.reading import ToldStory
from causalcine_jax.story_sets.story_set import read_set

FPS = 16
_draw = np.random.default_rng(3)
PICTURES = _draw.integers(0, 256, (3, 6, 10, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


def write_film(path, shots: list[tuple[int, int]]) -> None:
    """Still shots: (picture, frames)."""
    with FilmWriter(path, FPS) as film:
        film.append(np.concatenate([np.repeat(PICTURES[p][None], n, axis=0) for p, n in shots]))


def story(name: str, characters=(["anna"], ["leo"], ["anna"]), words: int = 3) -> dict:
    return {
        "schema": "causalcine/story@1",
        "id": name,
        "shots": [
            {"caption": f"shot {n} " + "of a cat " * words, "seconds": 1.5, "characters": cast}
            for n, cast in enumerate(characters)
        ],
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_scorers(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """same: the third shot is as the first; drifts: its second cut comes 8 frames late."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "same.mp4", [(0, 24), (1, 24), (0, 24)])
    write_film(folder / "drifts" / "film.mp4", [(0, 24), (1, 32), (2, 16)])
    write_film(folder / "never.mp4", [(0, 72)])
    (folder / "broken.mp4").write_bytes(b"no film")
    write_film(folder / "unasked.mp4", [(0, 24)])
    stories = [story(name) for name in ("same", "drifts", "never", "broken", "unfilmed")]
    (folder / "stories.jsonl").write_text("\n".join(map(json.dumps, stories)))
    return folder


def measure(films, out, *flags: str) -> dict:
    evaluate.main(
        ["--films", str(films), "--stories", str(films / "stories.jsonl"), "--out", str(out)]
        + list(flags)
    )
    return json.loads((out / "measures.json").read_text())


@pytest.fixture(scope="module")
def measured(films, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("measures")
    return out, measure(films, out, "--weights", weights, "--every", "6")


def test_still_shots_are_consistent_and_still(measured):
    _, report = measured
    for name in ("same", "drifts", "never"):
        for kind in ("asked", "found"):
            values = report["per_film"][name][kind]
            if (name, kind) != ("drifts", "asked") and (name, kind) != ("never", "asked"):
                assert values["subject"] == pytest.approx([1] * len(values["subject"]), abs=2e-3)
                assert values["background"] == pytest.approx(
                    [1] * len(values["background"]), abs=2e-3
                )
            assert len(values["alignment"]) == len(values["ranges"])
    drifting = report["per_film"]["drifts"]["asked"]["subject"]
    assert drifting[2] < 0.99 < drifting[0], "its third asked shot holds frames of the second"


def test_cuts_are_scored_in_their_parts(measured):
    _, report = measured
    cuts = {name: report["per_film"][name]["cuts"] for name in ("same", "drifts", "never")}
    assert cuts["same"]["sca"] == 1
    assert (cuts["drifts"]["matched"], cuts["drifts"]["deviation"]) == (2, 8)
    assert cuts["drifts"]["milliseconds_per_cut"] == pytest.approx(4 * 1000 / FPS)
    assert (cuts["never"]["missed"], cuts["never"]["extra"]) == (2, 0)
    assert report["cuts"]["missed"]["value"] == pytest.approx(2 / 3)
    assert report["cuts"]["frames_per_cut"] == pytest.approx(8 / 4)


def test_a_returning_character_is_compared_with_its_last_shot(measured):
    _, report = measured
    pair = lambda name: report["per_film"][name]["asked"]["pairs"]
    assert [(p["character"], p["first"], p["second"], p["absence"]) for p in pair("same")] == [
        ("anna", 0, 2, 1)
    ]
    assert pair("same")[0]["similarity"] == pytest.approx(1, abs=2e-3)
    assert pair("drifts")[0]["similarity"] < 0.99
    assert report["absences"]["asked"]["1"]["similarity"]["count"] == 3
    assert report["asked"]["returns"]["value"] == pytest.approx(
        np.mean([pair(name)[0]["similarity"] for name in ("same", "drifts", "never")])
    )
    never = report["per_film"]["never"]
    assert never["found"]["pairs"] == [], "one found shot has no pair"
    # A picture that never changes is nearest to one caption, so it earns nothing as a return.
    assert pair("never")[0]["similarity"] == pytest.approx(1, abs=2e-3)
    assert pair("never")[0]["gated"] == 0
    passed = [pair(name)[0]["introduced"] for name in ("same", "drifts", "never")]
    assert report["asked"]["returns_passed"]["value"] == pytest.approx(np.mean(passed))


def test_features_of_shots_stay_in_a_films_own_file(measured):
    out, report = measured
    assert "shot_features" not in (out / "measures.json").read_text()
    assert "shot_features" not in report["per_film"]["same"]["asked"]
    kept = json.loads((out / "films/same.json").read_text())["asked"]
    features = unpacked(kept["shot_features"])
    assert len(features) == len(kept["ranges"]) == 3
    assert features[0] @ features[2] == pytest.approx(kept["pairs"][0]["similarity"], abs=1e-3)


def test_a_story_sets_report_has_bounds_and_both_labels_crossed(weights, tmp_path):
    labels = small_set(tmp_path)
    data = yaml.safe_load(labels.read_text())
    data["stories"]["stove"] = data["stories"]["galley"] | {"described_again": True}
    labels.write_text(yaml.safe_dump(data))
    (tmp_path / "small/stove.yaml").write_text((tmp_path / "small/galley.yaml").read_text())
    for name, last in (("galley", 0), ("stove", 2)):
        shots = [(0, 45), (1, 48), (last, 48), (1, 48), (2, 48)]
        write_film(tmp_path / f"films/{name}.mp4", shots)
    flags = ["--films", str(tmp_path / "films"), "--stories", str(labels), "--every", "24"]
    for _ in range(2):  # the second run reads the features back
        evaluate.main([*flags, "--weights", weights, "--out", str(tmp_path / "out")])
        report = json.loads((tmp_path / "out/measures.json").read_text())
        bound = report["bounds"]["asked"]
        assert (bound["chance"]["count"], bound["no_absence"]["count"]) == (2, 0)
        assert bound["chance"]["value"] < report["asked"]["returns"]["high"]
        assert [(row["away"], row["described_again"]) for row in report["crossed"]] == [
            ("1", "false"),
            ("1", "true"),
        ]
        text = (tmp_path / "out/measures.md").read_text()
        assert "chance: shots of two stories" in text and "was introduced" in text


def test_what_was_not_measured_is_named(measured):
    out, report = measured
    assert set(report["bad"]) == {"broken"} and "broken.mp4" in report["bad"]["broken"]
    assert report["without_story"] == ["unasked"]
    assert report["without_film"] == ["unfilmed"]
    assert report["films"] == 3 and report["left_out"] == {}
    assert report["failed"] == 2, "broken and unfilmed"
    text = (out / "measures.md").read_text()
    assert "bad film broken" in text and "does not compare" not in text
    assert "numbers do not compare" in text, "small networks are not the paper's"


def test_a_second_run_measures_only_what_is_missing(measured, films, weights, monkeypatch, capsys):
    out, report = measured
    before = (out / "films/same.json").read_text()
    (out / "films/never.json").write_text(before[: len(before) // 2])  # as after a crash elsewhere
    seen = []
    real = run.measure_film

    def watched(film, *rest):
        seen.append(film.stem)
        return real(film, *rest)

    monkeypatch.setattr(run, "measure_film", watched)
    again = measure(films, out, "--weights", weights, "--every", "6")
    assert seen == ["broken", "never"]
    assert again["per_film"] == report["per_film"]
    assert "2 of them were there" in capsys.readouterr().out
    measure(films, out, "--weights", weights, "--every", "12")
    assert sorted(set(seen[2:])) == ["broken", "film", "never", "same"]


def test_measures_of_another_version_do_not_compare(measured):
    _, report = measured
    assert report["settings"]["version"] == run.VERSION
    older = report | {"settings": report["settings"] | {"version": 4}}
    with pytest.raises(UsageError, match=f"version was {run.VERSION} and 4"):
        comparison(report, older)


def test_a_missed_cut_gives_neither_a_return_nor_a_captions_gate():
    """Shot 1, of Anna too, is within the first range; the last is nearest to its caption."""
    asked = film_story(ToldStory("one", "one", story("one", [["anna"]] * 3)))
    shots = [range(0, 2), range(2, 3)]
    clips = dict(zip(shots, np.eye(3)[[0, 1]]))
    features = FilmFeatures(np.arange(3), None, None, clips, clips, None)
    seen = FirstPass(np.arange(3.0), np.zeros((3, 1, 1)), [2])
    found = _of_ranges([(0, shots[0]), (2, shots[1])], asked, features, np.eye(3), seen)
    assert found["alignment"] == [1, 0]
    (pair,) = found["pairs"]
    assert (pair["absence"], pair["introduced"]) == (None, True)
    assert found["means"]["returns"] is None


def test_without_weights_cuts_and_dynamics_are_measured(films, tmp_path):
    report = measure(films, tmp_path)
    assert report["cuts"]["sca"]["count"] == 3
    assert report["found"]["dynamics"]["count"] == 3
    assert report["aesthetic"]["count"] == 0
    assert len(report["left_out"]) == 5
    assert all("licence" in why for why in report["left_out"].values())


def test_lost_tokens_are_counted(films, weights, tmp_path):
    stories = tmp_path / "stories"
    stories.mkdir()
    (stories / "same.json").write_text(json.dumps(story("same", words=30)))
    evaluate.main(
        ["--films", str(films), "--stories", str(stories), "--weights", weights]
        + ["--every", "12", "--out", str(tmp_path / "out")]
    )
    report = json.loads((tmp_path / "out/measures.json").read_text())
    assert report["captions_cut"] == 3 and report["tokens_lost"] > 100
    assert "tokens of 3 captions" in (tmp_path / "out/measures.md").read_text()


@pytest.mark.parametrize(
    "flags, fault",
    [
        ([], "--stories is missing"),
        (["--stories", "absent.json"], "absent.json: there is no such file"),
        (["--stories", "S", "--weights", "dyno=a"], "did you mean 'dino'"),
        (["--stories", "S", "--every", "0"], "--every must be at least 1"),
        (["--stories", "S", "--model", "m"], "exclude each other"),
        (["--stories", "S", "--dtype", "float8"], "float32 or bfloat16"),
    ],
)
def test_wrong_flags_are_refused(films, tmp_path, flags, fault):
    with pytest.raises(UsageError, match=fault):
        evaluate.main(["--films", str(films), *flags, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("films", ["films", "films/0", "elsewhere"])
def test_measures_never_go_to_a_folder_of_films(tmp_path, films):
    """There --overwrite would remove the film.json of every film, and NAME.json a story."""
    (tmp_path / films / "one").mkdir(parents=True)
    write_film(tmp_path / films / "one/film.mp4", [(0, 2)])
    told = tmp_path / ("films/one.json" if films == "elsewhere" else "one.json")
    told.parent.mkdir(exist_ok=True)
    told.write_text(json.dumps(story("one")))
    flags = ["--films", str(tmp_path / films), "--stories", str(told), "--overwrite"]
    with pytest.raises(UsageError, match=r"films, and .*one.* is there: choose another --out"):
        evaluate.main([*flags, "--out", str(tmp_path)])
    assert told.is_file() and not (tmp_path / "measures.json").exists()


def test_missing_weights_are_refused_before_any_film(films, tmp_path):
    with pytest.raises(DataError, match=r"dino_vitbase16_pretrain.pth.*Apache-2.0"):
        measure(films, tmp_path / "out", "--weights", "dino=absent.pth")
    with pytest.raises(UsageError, match="name --films FOLDER"):
        evaluate.main(["--stories", "s.json"])


def test_stories_come_in_several_shapes(tmp_path):
    one = story("one")
    (tmp_path / "one.json").write_text(json.dumps({k: v for k, v in one.items() if k != "id"}))
    assert film_stories(tmp_path / "one.json")["one"].cuts == (1.5, 3.0)
    (tmp_path / "many.json").write_text(json.dumps({"stories": {"a": one, "b": one}}))
    assert list(film_stories(tmp_path / "many.json")) == ["a", "b"]
    tagged = story("tagged", words=0)
    for n, shot in enumerate(tagged["shots"]):
        del shot["characters"]
        shot["caption"] += f"[character{n % 2}] sits by [Character 5]"
    (tmp_path / "list.json").write_text(json.dumps([tagged]))
    assert film_stories(tmp_path / "list.json")["tagged"].cast == (
        ("character0", "character5"),
        ("character1", "character5"),
        ("character0", "character5"),
    )
    for bad, fault in (
        ([one, one], "two stories are called 'one'"),
        ([{"shots": []}], "has no id"),
        ({"stories": {"a": {**one, "shots": [{"caption": "x"}]}}}, "has no duration"),
        ([{**one, "shots": [{**one["shots"][0], "characters": "anna"}]}], "list of names"),
        ([{**one, "colour": 1}], "unknown key 'colour'"),
        ([], "holds no story"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(UsageError, match=fault):
            film_stories(tmp_path / "bad.json")


def test_a_story_in_chunks_is_asked_on_the_grid_that_the_film_was_made_on(tmp_path):
    """A film of chunks of one latent frame: cuts at frames 5 and 13, not at 21 and 45."""
    told = story("waves")
    for shot in told["shots"]:
        shot["chunks"] = 2
        del shot["seconds"]
    (tmp_path / "stories.jsonl").write_text(json.dumps(told))
    (tmp_path / "waves").mkdir()
    write_film(tmp_path / "waves/film.mp4", [(0, 5), (1, 8), (2, 8)])
    record = tmp_path / "waves/film.json"
    record.write_text(json.dumps({"schema": "causalcine/film@1", "chunk_frames": 1}))
    own = measure(tmp_path, tmp_path / "out")["per_film"]["waves"]
    assert own["cuts_asked"] == [5, 13] == own["cuts_found"] and own["cuts"]["sca"] == 1
    record.unlink()
    usual = measure(tmp_path, tmp_path / "out")["per_film"]["waves"]
    assert usual["cuts_asked"][0] == 21
    assert usual["story_sha256"] == own["story_sha256"], "systems of any grid are compared"
    record.write_text("[]")
    with pytest.raises(DataError, match=r"film\.json is no film\.json: film it again"):
        measure(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("length", [{"seconds": 0.75}, {"chunks": 1}])
def test_a_film_that_began_from_a_picture_has_its_shot_in_front(tmp_path, length):
    told = story("waves")
    for shot in told["shots"]:
        del shot["seconds"]
        shot.update(length)
    (tmp_path / "waves.json").write_text(json.dumps(told))
    waves = film_stories(tmp_path / "waves.json")["waves"]
    start = {"file": "a.png", "caption": "Waves.", "chunks": 1}
    (tmp_path / "film.json").write_text(json.dumps({"start": start}))
    asked = asked_of(tmp_path / "film.mp4", waves)
    assert asked.captions == ("Waves.", *waves.captions)
    assert asked.cuts == (9 / 16, 21 / 16, 33 / 16)
    assert asked.cast == ((), ("anna",), ("leo",), ("anna",))
    (tmp_path / "film.json").write_text("{}")
    assert asked_of(tmp_path / "film.mp4", waves) == waves


def test_films_are_measured_on_the_pixels_that_players_show(films):
    seen = []

    def watch(frames) -> list[int]:
        seen.extend(frames)
        return []

    asked = film_stories(films / "stories.jsonl")["same"]
    scorers = Scorers({}, np.dtype("float32"))
    measure_film(films / "same.mp4", asked, scorers, MeasureSettings(), watch)
    assert np.array_equal(seen, read_film(films / "same.mp4"))


def test_hidden_files_are_neither_films_nor_stories(tmp_path):
    """Such as the ._NAME that macOS leaves beside NAME on other disks."""
    labels = small_set(tmp_path)
    names = list(film_stories(labels))
    (labels.with_suffix("") / "._galley.yaml").write_bytes(b"\0\5\x16\7")
    assert [each.name for each in read_set(labels).stories] == names
    assert sorted(film_stories(labels.with_suffix(""))) == sorted(names)
    (tmp_path / "films").mkdir()
    for name in ("galley.mp4", "._galley.mp4"):
        (tmp_path / "films" / name).write_bytes(b"")
    (tmp_path / "films/.harbour").mkdir()
    (tmp_path / "films/.harbour/film.mp4").write_bytes(b"")
    assert list(find_films(tmp_path / "films")) == ["galley"]


def test_a_story_set_names_subjects_and_groups(tmp_path):
    labels = small_set(tmp_path)
    stories = film_stories(labels)
    cook = ("the cook",)
    assert stories["galley"].cast == (cook, (), cook, (), ())
    assert stories["harbour"].cast == (("the mate",), (), (), (), ("the mate",))
    assert dict(stories["galley"].labels) == {
        "kind": "person", "away": "1", "described_again": "false",
    }  # fmt: skip
    write_film(tmp_path / "films/galley.mp4", [(0, 45), (1, 48), (0, 48), (1, 48), (2, 48)])
    evaluate.main(
        ["--films", str(tmp_path / "films"), "--stories", str(labels)]
        + ["--out", str(tmp_path / "out")]
    )
    report = json.loads((tmp_path / "out/measures.json").read_text())
    assert report["by_label"]["kind"]["person"]["dynamics"]["count"] == 1
    data = yaml.safe_load(labels.read_text())
    del data["stories"]["galley"]["present"]
    labels.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match=r"galley.*present"):
        film_stories(labels)


def test_films_that_failed_count_as_the_worst(measured):
    _, report = measured
    for name in ("subject", "returns"):
        found, counted = report["asked"][name], report["failed_as_0"][name]
        assert (found["count"], counted["count"]) == (3, 5)
        assert counted["value"] == pytest.approx(found["value"] * 3 / 5)
    assert report["failed_as_0"]["sca"]["count"] == 5 and "dynamics" not in report["failed_as_0"]


def test_seeds_of_a_story_count_once(tmp_path):
    """Two stories with seeds 0 and 1; of the second story, seed 1 is missing."""
    for film, shots in (
        ("0/one", [(0, 24), (1, 24), (0, 24)]),
        ("1/one", [(0, 72)]),
        ("0/two", [(0, 24), (1, 24), (2, 24)]),
    ):
        (tmp_path / film).parent.mkdir(exist_ok=True)
        write_film(tmp_path / f"{film}.mp4", shots)
    stories = [story("one"), story("two")]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, stories)))
    report = measure(tmp_path, tmp_path / "out")
    assert (tmp_path / "out/films/1/one.json").is_file()
    assert set(report["per_film"]) == {"0/one", "1/one", "0/two"}
    assert report["without_film"] == ["1/two"]
    # Seed 1 of story one misses both cuts: the story's mean is 1 missed cut, the stories' 0.5.
    assert report["cuts"]["missed"]["value"] == pytest.approx(0.5)
    assert report["cuts"]["missed"]["count"] == 2
    assert report["failed_as_0"]["sca"]["value"] == pytest.approx(
        (report["per_film"]["1/one"]["cuts"]["sca"] / 2 + 0.5 + 0.5) / 2
    )


def test_films_of_one_name_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for file in ("a.mp4", "a/film.mp4"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(UsageError, match="both the film a"):
        find_films(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no film"):
        find_films(tmp_path / "empty")
    with pytest.raises(UsageError, match="no such folder"):
        find_films(tmp_path / "absent")


def test_no_good_film_is_an_error(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    (tmp_path / "stories.jsonl").write_text(json.dumps(story("bad")))
    with pytest.raises(DataError, match="none of 1 films could be measured: bad"):
        measure(tmp_path, tmp_path / "out")


def test_storyworlds_films_are_ranked_beside_the_judge(tmp_path):
    flags = film_measures.parse(["--films", "3", "--small", "--every", "8"])
    found = film_measures.measured(flags, tmp_path)
    assert found["weights"] == "random" and found["frames"] == 3 * WORLD.frames
    for name in ("alignment", "subject"):
        interval = found["rank_agreement"][name]
        assert interval["count"] == 3 and -1 <= interval["low"] <= interval["high"] <= 1


def test_rank_agreement_by_hand():
    """Films that both rank alike, films in the opposite order, and equal scores."""

    def judged(hits: int) -> FilmScores:
        scores = ShotScores(consistency=[1.0])
        scores.prompt["place"] = [n < hits for n in range(4)]
        return FilmScores(sca([], [], 1), {}, [scores])

    def measured(alignment: float) -> dict:
        return {"asked": {"means": {"alignment": alignment, "subject": 0.5, "inter_shot": None}}}

    films = [judged(hits) for hits in range(5)]
    alike = rank_agreement([measured(n**3) for n in range(5)], films)
    assert alike["alignment"].value == pytest.approx(1) and alike["alignment"].count == 5
    assert np.isnan(alike["subject"].value) and alike["inter_shot"].count == 0
    opposite = rank_agreement([measured(-n) for n in range(5)], films)
    assert opposite["alignment"].value == pytest.approx(-1)


def test_films_without_a_story_ask_for_no_others(tmp_path):
    """A folder per film looks like a folder per seed, and other films may lie beside them."""
    write_film(tmp_path / "elsewhere.mp4", [(0, 24)])
    (tmp_path / "0").mkdir()
    write_film(tmp_path / "0/one.mp4", [(0, 24), (1, 24), (0, 24)])
    (tmp_path / "stories.jsonl").write_text(json.dumps(story("one")))
    report = measure(tmp_path, tmp_path / "out")
    assert set(report["per_film"]) == {"0/one"} and report["without_film"] == []
