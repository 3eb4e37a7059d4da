"""`causalcine check`: a film's shots, cuts and faults before it is filmed, as film finds them."""

import json

import pytest
from repository import ROOT

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.convert import load
from causalcine_jax.errors import UsageError
from causalcine_jax.film_folder import check as check_module
from causalcine_jax.film_folder.check import check_story
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import read_recipe

FAULTY = """\
schema: causalcine/story@1
global: A story about Mia the fox.
video: {width: 48, height: 16}
shots:
  - {caption: Mia the foxx waves., seconds: 2}
  - {id: crowd, caption: "Mia, Otto and Luna dance.", chunks: 2}
"""
LONG = "Mia the fox waves and waves and waves. " * 8


def check(*arguments):
    """The exit code of `causalcine check`."""
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["check", *map(str, arguments)]))
    return ended.value.code


def test_the_demo_as_it_will_be_filmed(capsys):
    assert check(ROOT / "examples" / "demo.yaml") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == ("6 shots, 24 chunks, 285 frames: 17.81 s of 80x48 at 16 frames per second")
    rows = [line.split() for line in said[3:9]]
    assert [row[:2] for row in rows] == [
        ["1", "mia"],
        ["2", "otto"],
        ["3", "the-sea"],
        ["4", "moonlight"],
        ["5", "mia-again"],
        ["6", "together"],
    ]
    assert [row[2] for row in rows] == ["0.00", "2.81", "5.81", "8.81", "11.81", "14.81"]
    assert [row[4] for row in rows] == ["2.81", *["3.00"] * 5]
    assert [row[5] for row in rows] == ["1-4", "5-8", "9-12", "13-16", "17-20", "21-24"]
    assert "cuts at 2.81 s, 5.81 s, 8.81 s, 11.81 s, 14.81 s" in said
    assert "shot 'mia': 3 s asked, 2.812 s on the chunk grid (4 chunks)" in said
    longest = max(int(row[6]) for row in rows)
    reads = f"storyworld-student reads 64 tokens of a prompt, the longest here has {longest}"
    assert reads in said and 20 < longest <= 64


@pytest.mark.parametrize(
    "story", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_can_be_filmed(story, capsys):
    assert check(story) == 0 and capsys.readouterr().err == ""


def test_every_fault_is_listed_as_film_would(folder, tmp_path, capsys):
    (tmp_path / "story.yaml").write_text(FAULTY)
    assert check(tmp_path / "story.yaml", "--model", folder) == 2
    out, error = capsys.readouterr()
    assert out.startswith("2 shots, 5 chunks, 57 frames: 3.56 s of 48x16") and "1-3" in out
    assert len(error.splitlines()) == 1 and error.startswith(
        "error: story: the model does not know"
    )
    assert "'foxx' in shot 's1' (did you mean 'fox'?)" in error
    assert "shot 'crowd' names 3 characters (Mia, Otto, Luna)" in error
    found = check_story(read_recipe(tmp_path / "story.yaml"), folder)
    with pytest.raises(UsageError) as refused:
        generate(read_recipe(tmp_path / "story.yaml"), tmp_path, model=folder, progress=False)
    assert found.faults == (str(refused.value),)
    assert error == f"error: {refused.value}\n"


def test_the_models_frame_size_is_one_more_fault(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise UsageError("frames of 48x16 pixels: width must be a multiple of 32")

    monkeypatch.setattr(check_module, "latent_size", refuse)
    (tmp_path / "story.yaml").write_text(FAULTY)
    faults = check_story(read_recipe(tmp_path / "story.yaml"), folder).faults
    assert len(faults) == 2 and faults[1].endswith("width must be a multiple of 32")


def test_a_prompt_that_is_too_long_is_counted(folder, tmp_path, capsys):
    story = FAULTY.replace("Mia the foxx waves.", LONG)
    (tmp_path / "story.yaml").write_text(story.replace(", Otto and Luna", " and Otto"))
    assert check(tmp_path / "story.yaml", "--model", folder) == 2
    out, error = capsys.readouterr()
    assert out.splitlines()[3].split()[-1] == "80"
    assert "shot 's1': the prompt has 80 tokens, the model reads at most 24" in error


def test_a_story_that_is_none_and_a_model_that_is_none(folder, tmp_path, capsys):
    (tmp_path / "story.yaml").write_text(FAULTY.replace("seconds: 2", "second: 2"))
    assert check(tmp_path / "story.yaml", "--model", folder) == 2
    assert "shot 1: unknown key 'second', did you mean 'seconds'?" in capsys.readouterr().err
    assert check(ROOT / "examples" / "demo.yaml", "--model", tmp_path) == 1
    out, error = capsys.readouterr()
    assert out == "" and "is not a model folder: it lacks transformer/" in error


def test_no_weights_are_read(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(load, "fill", None)
    (tmp_path / "story.yaml").write_text(FAULTY)
    assert check(tmp_path / "story.yaml", "--model", folder) == 2


def test_a_film_json_with_a_start(folder, tmp_path, capsys):
    (tmp_path / "story.yaml").write_text(
        "schema: causalcine/story@1\nshots: [{id: a, caption: Mia waves., chunks: 1}]\n"
    )
    record = generate(read_recipe(tmp_path / "story.yaml"), tmp_path, model=folder, progress=False)
    record["start"] = {"file": "a.png", "caption": "Otto naps.", "sha256": "0", "chunks": 2}
    (tmp_path / "again.json").write_text(json.dumps(record))
    assert check(tmp_path / "again.json", "--model", folder) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:5]]
    assert [(row[1], row[5]) for row in rows] == [("start", "1-2"), ("a", "3-3")]


def test_a_set_of_stories_is_told_from_a_story(tmp_path):
    (tmp_path / "set.yaml").write_text("schema: causalcine/story-set@1\nstories: {a: {}}")
    with pytest.raises(UsageError, match="set of stories: film --stories films it"):
        read_recipe(tmp_path / "set.yaml")
