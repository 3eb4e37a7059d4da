"""A film that was stopped goes on by `film --resume`: the same film, frame by frame."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from repository import ROOT
from stopped_films import stop_after
from tiny_models import tiny_folder

from causalcine_jax.commands import film as command
from causalcine_jax.errors import DataError, StoppedEarly, UsageError, raise_faults
from causalcine_jax.film.embeddings import PromptEmbeddings
from causalcine_jax.film.finite import NotFinite
from causalcine_jax.film.record_schema import FilmRecord
from causalcine_jax.film_folder import generate as generation
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.embed_only import save_story_embeddings
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import Recipe, read_recipe
from causalcine_jax.film_folder.unfinished import (
    FilmRequest,
    check_no_unfinished_film,
    read_request,
    remove_unfinished,
    save_request,
)
from causalcine_jax.render.mp4 import read_film
from causalcine_jax.story import Shot, Story, write_story
from causalcine_jax.utils.output import one_writer

STORY = Story(
    (Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=2, seed=7)), "A story.", seed=1
)
CHOICES = Choices(steps=1, step_list=None, pool_frames=9, scale=2, window_chunks=1, memory_frames=3)
WITHOUT_TIMES = ("software", "timings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    generate(Recipe(STORY), out, model=folder, choices=CHOICES, progress=False)
    return out


def record(out):
    told = json.loads((out / "film.json").read_text())
    return {name: value for name, value in told.items() if name not in WITHOUT_TIMES}


def raises(error):
    raise error


def resume(out):
    asked = read_request(out)
    options = {"model": asked.model, "choices": asked.choices, "progress": False}
    generate(asked.recipe, out, **options, resume=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("the disk is full")])
def test_a_stopped_film_says_how_to_go_on_and_goes_on_as_if_never_stopped(
    folder, straight, tmp_path, monkeypatch, capsys, error
):
    out = tmp_path / "a film"
    with monkeypatch.context() as patched:
        stop_after(patched, 2, error)
        with pytest.raises(StoppedEarly if type(error) is KeyboardInterrupt else DataError):
            generate(Recipe(STORY), out, model=folder, choices=CHOICES, progress=False)
    assert f"causalcine film --resume '{out}'" in capsys.readouterr().err
    assert len(read_film(out / "film.unfinished.mp4")) == 21
    with pytest.raises(UsageError, match="holds an unfinished film: go on with it by --resume"):
        generate(Recipe(STORY), out, model=folder, choices=CHOICES, progress=False)
    (out / "film.unfinished.mp4").unlink()
    with monkeypatch.context() as patched:  # stopped once more, before it shows a chunk
        patched.setattr(generation.Director, "__next__", lambda self: raises(error))
        with pytest.raises(type(error)):
            resume(out)
    assert (out / "unfinished" / "latents" / "000001.npz").is_file()
    with pytest.raises(UsageError, match="holds an unfinished film: go on with it by --resume"):
        generate(Recipe(STORY), out, model=folder, choices=CHOICES, progress=False)

    resume(out)
    assert record(out) == record(straight)
    names = lambda folder: {file.name for file in folder.iterdir()}
    assert names(out) == names(straight)
    assert (out / "memory.png").read_bytes() == (straight / "memory.png").read_bytes()
    with pytest.raises(DataError, match="holds no unfinished film: the one in it is finished"):
        read_request(out)


def begun_and_stopped(out, folder, monkeypatch, recipe=Recipe(STORY), **choices):
    choices = dataclasses.replace(CHOICES, **choices)
    with monkeypatch.context() as patched:
        stop_after(patched, 2, DataError("full"))
        with pytest.raises(DataError, match="full"):
            generate(recipe, out, model=folder, choices=choices, progress=False)


@pytest.mark.parametrize("of", ["choices", "film.json"])
def test_a_film_goes_on_from_the_start_it_was_begun_with(folder, tmp_path, monkeypatch, of):
    start = {"start": tmp_path / "fox.png", "start_caption": "A fox."}
    recipe, straight = Recipe(STORY), tmp_path / "straight"
    Image.new("RGB", (32, 16), "red").save(start["start"])
    choices = dataclasses.replace(CHOICES, **start)
    generate(recipe, straight, model=folder, choices=choices, progress=False)
    if of == "film.json":
        recipe, start = read_recipe(straight / "film.json"), {}
    for out in (replaced := tmp_path / "replaced", gone := tmp_path / "gone"):
        begun_and_stopped(out, folder, monkeypatch, recipe, **start)
    Image.new("RGB", (32, 16), "blue").save(tmp_path / "fox.png")
    resume(replaced)
    (tmp_path / "fox.png").unlink()
    resume(gone)
    assert record(replaced) == record(gone) == record(straight)


def test_a_film_goes_on_with_the_embeddings_and_weights_it_was_begun_with(
    folder, tmp_path, monkeypatch
):
    file, other = tmp_path / "prompts", Recipe(Story((Shot("Mia jumps.", chunks=1),)))
    save_story_embeddings(Recipe(STORY), file, model=folder, progress=False)
    begun_and_stopped(tmp_path / "out", folder, monkeypatch, embeddings=file)
    known = PromptEmbeddings.load(file)
    rows = {prompt: row + 1 for prompt, row in known.rows.items()}
    dataclasses.replace(known, rows=rows).save(file)
    with pytest.raises(UsageError, match="prompts was replaced: its embeddings of this film"):
        resume(tmp_path / "out")
    known.save(file)
    journal = tmp_path / "out" / "unfinished" / "journal.json"
    begun = json.loads(journal.read_text())
    weights = begun["weights"] | {"vae": "0" * 12}
    journal.write_text(json.dumps(begun | {"weights": weights}))
    said = f"the weights in {folder.resolve()} are not those .* anew with --overwrite$"
    with pytest.raises(UsageError, match=said):
        resume(tmp_path / "out")
    journal.write_text(json.dumps(begun))
    save_story_embeddings(other, file, model=folder, progress=False)  # a prompt is added
    resume(tmp_path / "out")


def test_an_asked_json_of_before_goes_on(folder, straight, tmp_path, monkeypatch):
    begun_and_stopped(tmp_path, folder, monkeypatch)
    file = tmp_path / "unfinished" / "asked.json"
    told = json.loads(file.read_text())
    del told["begun"]
    file.write_text(json.dumps(told))
    resume(tmp_path)
    assert record(tmp_path) == record(straight)


def test_a_film_that_would_fail_again_does_not_say_to_go_on_with_it(
    folder, tmp_path, monkeypatch, capsys
):
    stop_after(monkeypatch, 2, NotFinite("transformer"))
    with pytest.raises(NotFinite):
        generate(Recipe(STORY), tmp_path, model=folder, choices=CHOICES, progress=False)
    said = capsys.readouterr().err
    assert "21 of 45 frames" in said and "--resume" not in said
    assert "going on with it would end the same way: film it otherwise, with --overwrite" in said


def test_a_killed_film_goes_on(folder, straight, tmp_path):
    """SIGKILL at any moment: here as soon as the second chunk is kept."""
    story, out = tmp_path / "story.yaml", tmp_path / "out"
    write_story(STORY, story)
    flags = "--steps 1 --pool-frames 9 --scale 2 --window 1 --memory-frames 3"
    words = ["--story", str(story), "--out", str(out), "--model", str(folder), *flags.split()]
    with subprocess.Popen(
        [sys.executable, "launch/generate.py", *words], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as film:
        end = time.monotonic() + 300
        kept = out / "unfinished" / "latents" / "000001.npz"
        while not kept.exists() and film.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        film.send_signal(signal.SIGKILL)
    story.unlink()  # what was asked for is kept as well
    if not (out / "film.json").exists():  # a quick machine may have finished it
        command.main(["--resume", str(out), "--no-progress"])
    assert record(out) == record(straight)


def test_a_stop_after_the_last_frame_keeps_the_film_too(folder, straight, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(StoppedEarly):
        patched.setattr(generation, "save_contact_sheet", stopped)
        generate(Recipe(STORY), tmp_path, model=folder, choices=CHOICES, progress=False)
    assert (tmp_path / "film.mp4").exists()
    resume(tmp_path)
    assert record(tmp_path) == record(straight)


def test_overwrite_replaces_an_unfinished_film(folder, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_after(patched, 1, DataError("full"))
        with pytest.raises(DataError):
            generate(Recipe(STORY), tmp_path, model=folder, progress=False)
    generate(Recipe(STORY), tmp_path, model=folder, choices=CHOICES, progress=False, overwrite=True)
    assert record(tmp_path) == record(straight)


def test_what_was_asked_for_comes_back(folder, straight, tmp_path, monkeypatch):
    recipe = read_recipe(straight / "film.json")
    choices = Choices(size=(32, 16), step_list=(1000.0, 500.0), negative="", seed=3)
    stop_after(monkeypatch, 1, DataError("full"))
    with pytest.raises(DataError):
        generate(recipe, tmp_path, model=folder, choices=choices, progress=False)
    asked = read_request(tmp_path)
    assert (asked.recipe, asked.model, asked.choices) == (recipe, folder.resolve(), choices)

    file = tmp_path / "unfinished" / "asked.json"
    told = json.loads(file.read_text())
    for change, fault in (
        ({"schema": "x"}, "its schema is not causalcine/unfinished@1"),
        ({"choices": {"steps": "many"}}, "choices: steps must be a whole number or nothing"),
        ({"choices": {"start": 3}}, "choices: start must be a path or nothing"),
        ({"choices": {"stepz": 3}}, "unknown key 'stepz'"),
        ({"choices": [1]}, "choices must be a mapping"),
        ({"model": 3}, "model text or nothing"),
        ({"begun": 3}, "begun must be a mapping, and its embeddings text or nothing"),
        ({"begun": {"embeddings": 3}}, "begun must be a mapping, and its embeddings text"),
        ({"begun": {"start": 3}}, "start must be a mapping"),
        ({"begun": {"start": {"file": "a"}}}, "start: caption must be text"),
        ({"story": None}, "must be a mapping"),
        ({"record": {"dtype": 3}}, "dtype must be one of"),
    ):
        file.write_text(json.dumps(told | change))
        with pytest.raises(UsageError, match=fault):
            read_request(tmp_path)


def test_what_cannot_be_resumed_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no unfinished film, so there is nothing"):
        read_request(tmp_path)
    with pytest.raises(UsageError, match="--out, --seed, --window cannot be with --resume"):
        words = "--seed 3 --out x --window 3 --no-progress"
        command.main(["--resume", str(tmp_path), *words.split()])


def test_files_are_named_for_any_working_directory_and_links_stay(tmp_path, monkeypatch):
    """A model's family is guessed from its folder's name, so a link must not be followed."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "self-forcing").symlink_to(tmp_path / "weights")
    start = {"file": "fox.png", "caption": "A fox.", "sha256": "0" * 64, "chunks": 1}
    recipe = Recipe(STORY, FilmRecord(start=start))
    choices = Choices(start=Path("fox.png"), lora=("a.safetensors:0.5",))
    monkeypatch.chdir(tmp_path)
    save_request(tmp_path, FilmRequest(recipe, Path("self-forcing"), choices))
    asked = read_request(tmp_path)
    assert asked.model == tmp_path / "self-forcing"
    assert asked.choices.start == tmp_path / "fox.png"
    assert asked.choices.lora == (f"{tmp_path / 'a.safetensors'}:0.5",)
    assert asked.recipe.record.start == start | {"file": str(tmp_path / "fox.png")}


def test_only_the_films_own_files_are_removed_and_only_by_one_writer(tmp_path):
    save_request(tmp_path, FilmRequest(Recipe(STORY), None, Choices()))
    folder = tmp_path / "unfinished"
    (folder / "latents").mkdir()
    for name in ("journal.json", "latents/000000.npz", "latents/000001.npz.1-0123abcd.tmp"):
        (folder / name).write_text("the film's")
    (folder / "mine.txt").write_text("not the film's")
    with one_writer(folder), pytest.raises(UsageError, match="is being written by process"):
        remove_unfinished(tmp_path)
    with pytest.raises(UsageError, match="holds an unfinished film"):
        check_no_unfinished_film(tmp_path)
    remove_unfinished(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]
    check_no_unfinished_film(tmp_path)
    (folder / "mine.txt").unlink()
    remove_unfinished(tmp_path)
    assert not folder.exists()


def test_a_film_that_cannot_be_begun_does_not_ask_to_be_resumed(folder, tmp_path, monkeypatch):
    """A kill while the weights are sampled, for example."""
    with monkeypatch.context() as patched:
        patched.setattr(generation.Director, "keep_in", lambda *_: raises(DataError("full")))
        with pytest.raises(DataError, match="full"):
            generate(Recipe(STORY), tmp_path, model=folder, choices=CHOICES, progress=False)
    check_no_unfinished_film(tmp_path)


@pytest.mark.parametrize("wrong", ["x", 5, [], [1]])
def test_a_record_that_is_no_mapping_is_refused_in_one_line(wrong, tmp_path):
    with pytest.raises(UsageError, match=r"film\.json: the record must be a mapping, not "):
        FilmRecord.from_dict(wrong, needed=("story",))
    save_request(tmp_path, FilmRequest(Recipe(STORY), None, CHOICES))
    file = tmp_path / "unfinished" / "asked.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "record": wrong}))
    with pytest.raises(UsageError, match=r"asked\.json: the record must be a mapping, not "):
        read_request(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"size": [32]}, "choices: size must be a list of 2 whole numbers or nothing"),
        ({"size": [32, 16, 8]}, "choices: size must be a list of 2 whole numbers"),
        ({"step_list": ["x"]}, "step_list must be a list of finite numbers or nothing"),
        ({"lora": [3]}, "lora must be a list of text"),
        ({"rollout_of": "x"}, "unknown rollout_of 'x'"),
    ],
)
def test_edited_choices_are_refused(edit, message, tmp_path):
    save_request(tmp_path, FilmRequest(Recipe(STORY), None, CHOICES))
    file = tmp_path / "unfinished" / "asked.json"
    asked = json.loads(file.read_text())
    file.write_text(json.dumps(asked | {"choices": asked["choices"] | edit}))
    with pytest.raises(UsageError, match=message):
        raise_faults("film", read_request(tmp_path).choices.faults())
