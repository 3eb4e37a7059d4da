"""The experiments: valid commands in order, measurements made once, statistics by hand, the report.

The report is made from whatever was measured.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation.intervals import Grouped, bootstrap_grouped, bootstrap_paired
from causalcine_jax.evaluation.storyworld.free_films import ShotScores
from causalcine_jax.evaluation.storyworld.judge import CELL_CENTRES, CLASSES
from causalcine_jax.evaluation.storyworld.reading import CharacterReading, Reading
from causalcine_jax.evaluation.storyworld.recall import ReturnCase, Verdict, find_returns
from causalcine_jax.evaluation.storyworld.report import SUBSETS
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.rollouts import ROLLOUTS
from causalcine_jax.story import Shot, Story
from causalcine_jax.storyworld import WORLDS, Return, WorldConfig, WorldStory, sample_story
from causalcine_jax.storyworld.world import SIZES
from causalcine_jax.training import flags as training_flags
from causalcine_jax.training.flags import parse
from experiments import claims, long_films, measure, pictures, report, scores
from experiments.commands import RunCommand, Workshop, needed_runs
from experiments.kinds import Amounts, KindResults, Subject
from experiments.plan import Claim
from experiments.report import write_report
from experiments.runs import EMBEDDED, SCALES
from experiments.tables import TABLES

OF_CELLS = ("species", "colour", "accessory")  # read in every cell, the rest once a frame
BASE, STUDENT = "base+policy=camr", "student+policy=camr"
NOTHING = np.zeros((0, 0), np.int32)  # retrieved


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Workshop:
    """Returns the base scale, with the embedded base also as its student."""
    monkeypatch.chdir(ROOT)
    return Workshop(SCALES["base"], tmp_path, {"student": Path(EMBEDDED)})


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_is_sound_and_comes_after_what_it_needs(scale, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made: set[str] = set()
    for command in Workshop(SCALES[scale], tmp_path).commands(needed_runs(TABLES), seeds=2):
        folders = [
            part
            for flag in command.flags
            for part in flag.partition("=")[2].split(",") or [flag]
            if part.startswith(str(tmp_path))
        ]
        if command.program == "launch/train.py":
            config, _ = parse(list(command.flags))  # an invalid config raises UsageError
            assert config.out == str(tmp_path / "runs" / command.makes)
            for folder in (folder for folder in folders if not folder.startswith(config.out)):
                assert (
                    str(Path(folder).relative_to(tmp_path))
                    .removeprefix("runs/")
                    .removesuffix("/model")
                    in made
                ), (command.makes, folder)
        made.add(command.makes)
    assert {
        "student-no-gan",
        "single-student",
        "memory-sink",
        "positions-absolute-seed1",
        "films/single",
    } <= made


def test_what_is_done_is_not_run_again_and_what_was_stopped_is(workshop):
    names = lambda: [
        command.makes for command in workshop.commands(["student", "student-no-gan"], seeds=1)
    ]
    assert names() == ["films/base", "films/montage", "ode", "student-no-gan"]
    model = workshop.out / "runs" / "ode" / "model"
    model.mkdir(parents=True)
    runs = workshop.commands(["student", "student-no-gan"], seeds=1)
    (ode,) = [command for command in runs if command.makes == "ode"]
    config = dataclasses.asdict(training_flags.parse(list(ode.flags))[0])
    wrote = lambda **other: (model.parent / "config.json").write_text(json.dumps(config | other))
    wrote()
    (model / "metadata.json").write_text('{"training": {"step": 200}}')
    assert "ode" in names()
    (model / "metadata.json").write_text('{"training": {"step": 300}}')
    assert names() == ["films/base", "films/montage", "student-no-gan"]
    wrote(batch=3)
    with pytest.raises(
        UsageError,
        match=r"runs/ode was trained with other settings: batch was 3, is 4\. Delete it",
    ):
        names()
    wrote()
    used = dataclasses.replace(
        workshop, used={**workshop.used, "ode": model, "films/base": model, "films/montage": model}
    )
    (command,) = used.commands(["student-no-gan"], seeds=1)
    assert (
        f"--config.data.store={model},{model}" in command.flags
        and "--config.gan.generator_weight=0.0" in command.flags
    )


def test_a_command_that_fails_is_named():
    with pytest.raises(
        DataError, match=r"ode failed with exit code 3; the same command .* python -c"
    ):
        RunCommand("ode", "-c", ("raise SystemExit(3)",)).run()


def test_a_measurement_is_made_once(workshop, monkeypatch):
    made = []

    def fake(subjects, world, amounts):
        (key,) = subjects
        made.append((subjects[key].memory.policy, amounts.returns))
        return KindResults(
            {key: {"mean": [(1.0, 1), (0.5, 1)]}}, {key: [np.zeros((2, 48, 80, 3), np.uint8)]}
        )

    monkeypatch.setitem(measure.KINDS, "recall", measure.MeasuredKind(fake, ("returns",)))
    own = MemoryConfig("attended")  # as the shipped student's; the tables compare under camr
    monkeypatch.setattr(measure, "load_model", lambda folder: type("Model", (), {"memory": own}))
    missing, student = (
        one for one in measure.measurements(workshop, ["gan"], 1) if one.kind == "recall"
    )
    missing, student = (
        (missing, student)
        if missing.name.startswith("recall-student-no-gan")
        else (student, missing)
    )
    assert not measure.measure(workshop, missing, Amounts()) and made == []
    for returns in (5, 3, 5, 8):  # fewer than were measured are enough, more are not
        assert measure.measure(workshop, student, Amounts(returns=returns))
    assert made == [("camr", 5), ("camr", 8)]
    saved = measure.load(workshop, student.name)
    (key,) = saved["scores"]
    assert saved["scores"][key]["mean"] == [[1.0, 1], [0.5, 1]]
    assert saved["settings"]["amounts"] == {"returns": 8}
    assert saved["settings"]["rows"][key]["sampler"]["steps"] == 20
    assert saved["software"]["jax"] and saved["command"]
    assert "guidance 2, memory policy camr, weights" in report._identity([saved], "student")
    assert len(measure.stills(workshop, student.name, key)) == 1

    path = workshop.out / "measurements" / f"recall-{STUDENT}.json"
    # A measurement of another memory does not count.
    path.write_text(path.read_text().replace('"policy": "camr"', '"policy": "sink"'))
    measure.measure(workshop, student, Amounts(returns=8))
    assert len(made) == 3
    path.write_text("{")
    with pytest.raises(DataError, match="delete it"):
        measure.load(workshop, student.name)


def test_measurements_are_shared_between_tables_and_named_by_seed(workshop):
    names = [
        one.name
        for one in measure.measurements(workshop, ["students", "gan", "positions"], seeds=2)
    ]
    assert len(names) == len(set(names))
    assert names[:5] == [
        f"recall-{BASE}",
        f"recall-{STUDENT}",
        f"films-{BASE}",
        f"films-{STUDENT}",
        f"speed-{BASE}-{STUDENT}",
    ]
    assert {
        "drift-student-no-gan+policy=camr",
        "drift-student-no-gan-seed1+policy=camr",
        "long-memory-camr-seed1+positions=absolute",
    } <= set(names)
    assert "drift-student-seed1+policy=camr" not in names


def test_table1_is_one_models_weights_under_every_rollout(workshop):
    rows = TABLES["table1"].rows
    assert [row.label for row in rows] == [each.title for each in ROLLOUTS.values()]
    for row, rollout in zip(rows, ROLLOUTS.values(), strict=True):
        memory = measure._memory(row, MemoryConfig("attended"))
        assert memory == rollout.memory
        alone = Subject(None, memory).at_once(20, 8) == 1
        assert alone == (memory.at_cut != "keep")
    assert workshop.commands(needed_runs(["table1"]), seeds=1) == []
    names = {one.name for one in measure.measurements(workshop, ["table1"], seeds=1)}
    assert len(names) == 2 * len(rows) and {f"recall-{BASE}", f"films-{BASE}"} <= names


def test_recall_is_told_apart_by_how_long_a_character_was_absent():
    def verdict(absence: int, right: bool) -> Verdict:
        story = sample_story(1, 0, WorldConfig.base())
        who = story.cast[0]
        case = ReturnCase(story, Return(0, 9, 9 - absence, 0, 1))
        seen = CharacterReading(who.species, who.colour, who.accessory, 1.0, 1.0)
        return Verdict(case, seen if right else None)

    found = scores.of_verdicts([verdict(4, True), verdict(5, False), verdict(6, True)])
    assert found["near"] == [(1.0, 1), (0.0, 1), (0.0, 0)]
    assert found["far"] == [(0.0, 0), (0.0, 0), (1.0, 1)]


def test_recall_is_told_apart_by_framing_and_company():
    cases = find_returns(WorldConfig.base(), 1, 40)
    kept = {name: [*filter(keep, cases)] for name, keep in SUBSETS.items()}
    shots = lambda name: [case.story.shots[case.back.shot] for case in kept[name]]
    assert {shot.size for shot in shots("wide shots")} == {"wide"}
    assert {len(shot.cast) for shot in shots("in a pair")} == {2}
    assert sum(len(kept[f"{size} shots"]) for size in SIZES) == 40
    assert len(kept["first seen early"]) + len(kept[next(iter(kept))]) == 40


def grouped(totals, counts=None) -> Grouped:
    totals = np.array(totals, float)
    return Grouped(totals, np.ones_like(totals) if counts is None else np.array(counts, float))


def test_intervals_of_groups_and_of_paired_differences_by_hand():
    # Two redrawn stories are both the first (1/4), one each (1/2), or both the second (1/4).
    assert bootstrap_grouped(grouped([2, 0], [2, 1])) == (pytest.approx(2 / 3), 0.0, 1.0, 3)
    assert bootstrap_paired(grouped([1, 0]), grouped([0, 0]), np.subtract) == (0.5, 0.0, 1.0, 2)
    # Stories differ widely, but the models by a constant: paired, the difference is certain.
    easy = np.linspace(0, 1, 30)
    assert bootstrap_paired(grouped(easy + 0.1), grouped(easy), np.subtract)[:3] == pytest.approx(
        (0.1, 0.1, 0.1)
    )
    assert bootstrap_paired(grouped(3 * easy), grouped(easy), np.divide)[:3] == pytest.approx(
        (3, 3, 3)
    )
    # Stories that only one side answered say nothing of the difference.
    equal = np.array([0.2, 0.5, 0.9])
    one = grouped([*equal, 1, 1], [1] * 5)
    other = grouped([*equal, 0, 0], [1, 1, 1, 0, 0])
    assert bootstrap_paired(one, other, np.subtract) == (0.0, 0.0, 0.0, 3)
    # If all are right, redrawing shows no spread, but Wilson's interval of 4 groups does.
    assert bootstrap_grouped(grouped([2, 2, 1, 1], [2, 2, 1, 1]))[:3] == pytest.approx(
        (1.0, 4 / (4 + 1.959964**2), 1.0)
    )
    assert (
        bootstrap_grouped(grouped([0, 0], [0, 0])).count == 0
        and not bootstrap_paired(grouped([0], [0]), grouped([1]), np.subtract).count
    )


@pytest.mark.parametrize(
    ("first", "bounds", "words"),
    [
        (0.5, {"at_least": 0.0}, "holds beyond the interval"),
        (-0.5, {"at_least": 0.0}, "does not hold, beyond the interval"),
        (-0.5, {"at_most": 0.03}, "holds beyond the interval"),
        (0.01, {"at_least": 0.0}, "holds by value, but the interval reaches past 0"),
        (0.04, {"at_most": 0.03}, "does not hold by value, but the interval reaches past 0.03"),
    ],
)
def test_verdicts_on_claims(first, bounds, words):
    noise = np.random.default_rng(0).normal(0, 0.3, 100)
    noise -= noise.mean()
    claim = Claim("", ("a", "x.y"), ("b", "x.y"), **bounds)
    assert claims.judge(claim, grouped(first + noise), grouped(np.zeros(120))).words == words
    few = claims.judge(claim, grouped([first, first]), grouped([0.0, 0.0])).words
    held = "holds" if words.startswith("holds") else "does not hold"
    assert claims.judge(claim, grouped([first] * 20), grouped([0.0] * 20)).words.startswith(
        f"{held} by value; all 20 stories say the same"
    )
    assert few == f"{held} by value; 2 stories are too few for an interval"


def test_fewer_and_more_do_not_hold_where_both_are_the_same():
    verdict = lambda claim: claims.judge(claim, grouped([1, 0] * 10), grouped([0, 1] * 10)).words
    held = {claim.words: verdict(claim) for claim in TABLES["gan"].claims}
    assert held.pop("with the head recall is no worse").startswith("holds by value")
    assert len(held) == 3
    assert all(words.startswith("does not hold by value") for words in held.values())


def test_one_story_is_shown_and_drawn_without_an_interval(tmp_path):
    one = bootstrap_grouped(grouped([1.0], [2]))
    assert report.shown(one) == "0.500"
    pictures.write_curves(tmp_path / "curves.png", {"recall": {"ours": [one, one]}})
    pictures.write_bars(tmp_path / "bars.png", "One", {"ours": {"recall": one}})
    assert all(Image.open(tmp_path / f"{name}.png").size[0] for name in ("curves", "bars"))


def test_scores_of_seeds_add_up_story_by_story():
    pair = bootstrap_paired(
        grouped([1, 1, 0], [1, 1, 0]), grouped([1, 0, 1], [1, 1, 1]), np.subtract
    )
    assert pair.count == 2  # the third story has no question for one of them
    both = scores.grouped([[(1.0, 2), (0.0, 1), (1.0, 1)], [(2.0, 2), (1.0, 1)]])
    assert both.totals.tolist() == [3, 1] and both.counts.tolist() == [4, 2]
    assert scores.by_part([{"x": (1.0, 2)}, {"x": (0.0, 0)}]) == {
        "x": (1.0, 2),
        "x@1": (1.0, 2),
        "x@2": (0.0, 0),
    }


def test_worlds_of_one_shot_and_of_several_acts():
    single = sample_story(1, 3, WORLDS["single"]())
    assert [(shot.start_chunk, shot.chunks) for shot in single.shots] == [
        (0, 10)
    ] and single.world.frames == 117
    long = sample_story(1, 2, WorldConfig.base().longer(3))
    ends = {shot.end_chunk for shot in long.shots}
    assert (
        {10, 20, 30} <= ends
        and long.world.act_chunks == 10
        and all(shot.chunks <= 4 for shot in long.shots)
    )
    with pytest.raises(UsageError, match="does not divide into 4 acts"):
        dataclasses.replace(WorldConfig.base(), acts=4)


def test_a_long_film_is_scored_by_act_and_by_quarter(monkeypatch):
    """Self recall: one return per act, right in all acts but the last two and the second."""
    story = sample_story(1, 0, WorldConfig.base().longer(8))
    marked = []
    for shot in story.shots:
        score = ShotScores()
        first = shot.start_chunk % 10 == 0
        score.self_recall["colour"] += [shot.start_chunk // 10 in (0, 2, 3, 4, 5)] if first else []
        marked.append(score)
    monkeypatch.setattr(long_films, "score_shots", lambda *given: marked)
    found = long_films.long_scores(story, None, None)
    assert found["self_recall"] == (5.0, 8) and found["self_recall@2"] == (0.0, 1)
    assert found["self_recall_first"] == (1.0, 2) and found["self_recall_last"] == (0.0, 2)


@pytest.fixture(scope="module")
def staying() -> WorldStory:
    return long_films.staying_story(WorldConfig.base(), 0)


def test_a_staying_story_has_one_character_per_shot_and_a_static_camera(staying):
    assert [shot.chunks for shot in staying.shots] == [10] * 8
    for shot in staying.shots:
        assert (
            len(shot.cast) == len(shot.actions) == 1
            and shot.camera == "static"
            and shot.actions[0] != "walk"
        )
        assert staying.cast[shot.cast[0]].name in shot.caption
        assert not any(
            word in shot.caption.lower() for word in ("pan", "push", "pull", "walk", "stroll")
        )
    assert staying == long_films.staying_story(WorldConfig.base(), 0)


def test_drift_by_hand(staying):
    """Heads are in one cell, then in another; at the last shot's end there is none."""
    frames, cells = staying.world.frames, len(CELL_CENTRES)
    figure = np.zeros((frames, cells))
    here, there = 22, 44
    for shot in staying.shots:
        middle = shot.frames[len(shot.frames) // 2]
        figure[shot.frames.start : middle, here] = 1
        figure[middle : shot.frames.stop, there] = shot is not staying.shots[-1]
    maps = {
        name: np.ones((frames, *((cells,) if name in OF_CELLS else ()), len(classes)))
        for name, classes in CLASSES.items()
        if name != "action"
    }
    found = long_films.drift_scores(
        staying, Reading(figure=figure, motion=np.zeros((frames, cells, 1)), **maps)
    )
    way = np.hypot(*(CELL_CENTRES[there] - CELL_CENTRES[here]))
    assert (
        found["way"] == (pytest.approx(7 * way), 7)
        and found["way@1"] == (pytest.approx(way), 1)
        and found["way@8"] == (0, 0)
    )
    assert found["lost"] == (1.0, 8) and found["lost@8"] == (1.0, 1)
    assert found["off_middle@3"] == (pytest.approx(abs(CELL_CENTRES[there][0])), 1)


def test_an_endless_film_is_summed_up_as_it_streams(monkeypatch):
    story = sample_story(5, 0, WorldConfig.base().longer(16))
    read = []
    seen = lambda reading, who: CharacterReading(
        "fox", "red", "hat", 1.0, consistency=float(reading < 100)
    )
    monkeypatch.setattr(long_films, "of_character", seen)
    judge = type(
        "Judge",
        (),
        {"read": staticmethod(lambda video: read.append(len(video)) or sum(read[:-1]) // 12)},
    )
    film = long_films._EndlessFilm(story, judge)
    shot = Story((Shot("Mia waves.", chunks=160),)).resolve().shots[0]
    for index in range(160):
        frames = np.full(
            (first_frame_of_chunk(index + 1) - first_frame_of_chunk(index), 2, 2, 3),
            index,
            np.uint8,
        )
        film.add(
            Chunk(frames, index, shot, NOTHING, {"denoise": 1.0 + (index >= 100), "decode": 0.5})
        )
    assert read == [len(shot.frames) for shot in story.shots]
    assert [int(still[0, 0, 0]) for still in film.stills] == [0, 80]
    summed = film.scores()
    assert summed["seconds_first"] == (78 * 1.5, 78) and summed["seconds_last"] == (
        20 * 1.5 + 60 * 2.5,
        80,
    )
    assert summed["consistency_first"][0] == summed["consistency_first"][1] > 0
    assert 0 < summed["consistency_last"][0] < summed["consistency_last"][1]
    assert summed["resident_last"][0] > 80 and summed["live_first"][1] == 78


def test_the_report_says_what_was_measured_and_what_was_not(workshop):
    settings = {"amounts": {"returns": 100}, "rows": {}}
    shown = [{"title": "T", "captions": ["a", "b", "c"]}]

    def save(name, keys, of):
        stills = {key: [np.zeros((3, 48, 80, 3), np.uint8)] for key in keys}
        measured = KindResults(dict.fromkeys(keys, of), stills, shown)
        measure._save(workshop, name, settings, measured, 1.0)

    right = {name: [(1.0, 1)] * 100 for name in ("colour", "accessory", "mean")}
    wrong = {name: [(float(i % 5 == 0), 1) for i in range(100)] for name in right}
    save(f"recall-{BASE}", [BASE, "vae"], right)
    text = write_report(workshop, ["students", "gan"], 1, workshop.out / "docs").read_text()
    assert "base minus student in primary recall is at most 0.03: not measured" in text
    assert (
        "| true films through the VAE | 1.000 [0.963, 1.000]" in text
        and text.count("not measured") > 20
    )
    questions = next(line for line in text.splitlines() if line.startswith("| questions asked"))
    assert [cell.strip() for cell in questions.split("|")[2:6]] == ["100", "100", "100", ""]
    assert (
        "--config.gan.generator_weight=0.0" in text
        and "Model `base`: causalcine_jax/weights/storyworld" in text
    )

    save(f"recall-{STUDENT}", [STUDENT], wrong)
    text = write_report(workshop, ["students"], 1, workshop.out / "docs").read_text()
    assert (
        "**does not hold, beyond the interval**" in text
        and "python launch/experiments.py --scale base --tables students --returns 100" in text
    )
    path = workshop.out / "measurements" / f"recall-{STUDENT}.json"
    other = json.loads(path.read_text())
    other["settings"]["rows"] = {STUDENT: {"weights_sha256": "of another model"}}
    path.write_text(json.dumps(other))
    text = write_report(workshop, ["students"], 1, workshop.out / "docs").read_text()
    assert "base minus student in primary recall is at most 0.03: not measured" in text
    save(f"recall-{STUDENT}", [STUDENT], wrong)
    write_report(workshop, ["students"], 1, workshop.out / "docs")
    pictures = sorted(path.name for path in (workshop.out / "docs" / "experiments").iterdir())
    save("recall-memory-sink", ["memory-sink"], right)
    save("recall-memory-sink-seed1", ["memory-sink"], wrong)
    lines = write_report(workshop, ["memory"], 2, workshop.out / "docs").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| sink, trained so"))
    assert [line.split("|")[4].split()[0] for line in lines[at : at + 3]] == [
        "0.600",
        "1.000",
        "0.200",
    ] and "... seed 1" in lines[at + 2]
    assert (
        pictures == ["students_recall.png"]
        and min(Image.open(workshop.out / "docs" / "experiments" / pictures[0]).size) > 300
    )


def test_all_faults_of_a_request_are_one_line():
    flags = ["--tables", "studnets", "--scale", "bass", "--seeds", "0", "--films", "0"]
    done = subprocess.run(
        [sys.executable, "launch/experiments.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    for part in (
        "'bass', did you mean 'base'?",
        "'studnets', did you mean 'students'?",
        "seeds must be at least 1",
        "films must be",
    ):
        assert part in done.stderr
    with pytest.raises(
        UsageError, match=r"'studant', did you mean 'student'\?; base: there is no folder nowhere"
    ):
        Workshop(SCALES["base"], Path("out"), {"studant": Path("."), "base": Path("nowhere")})


def test_a_dry_run_prints_commands_and_makes_nothing(tmp_path):
    command = [
        sys.executable,
        "launch/experiments.py",
        "--dry-run",
        "--tables",
        "memory",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    lines = done.stdout.splitlines()
    assert (
        lines[0] == f"# base: {EMBEDDED}"
        and [line.split()[1] for line in lines[1:3]] == ["launch/encode.py"] * 2
    )
    assert [
        "memory.policy=" + policy in line
        for policy, line in zip(("camr", "sink", "none"), lines[3:], strict=True)
    ] == [True] * 3
    assert not (tmp_path / "out").exists() and json.dumps(lines)
