"""All stories of a set filmed with several seeds by one command, which goes on where it stopped."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_story_set import small_set
from stopped_films import stop_after
from tiny_models import tiny_folder

from causalcine_jax.commands import film as command
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.evaluation.films.stories import film_stories, find_films
from causalcine_jax.film.embeddings import PromptEmbeddings
from causalcine_jax.film_folder import film_set as sets
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.embed_only import save_story_embeddings
from causalcine_jax.film_folder.film_set import FilmSet, film_set, recipes
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.story import Shot, Story, write_story

CHOICES = Choices(steps=1, scale=2, window_chunks=1, memory_frames=3, pool_frames=9)
STORIES = {
    name: Recipe(Story((Shot(caption, chunks=2),), "A story."))
    for name, caption in (("waves", "Mia waves."), ("sleeps", "Otto sleeps."))
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def film(out, model, wanted=None, choices=CHOICES):
    wanted = wanted or FilmSet(STORIES, (0, 1))
    film_set(wanted, out, model=model, choices=choices, progress=False)


def hashes(out):
    return {
        str(file.parent.relative_to(out)): json.loads(file.read_text())["frames_sha256"]
        for file in out.glob("*/*/film.json")
    }


@pytest.fixture(scope="module")
def straight(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    film(out, model)
    return out


def test_every_story_is_filmed_with_every_seed_where_evaluate_finds_it(straight):
    assert sorted(hashes(straight)) == ["0/sleeps", "0/waves", "1/sleeps", "1/waves"]
    assert len(set(hashes(straight).values())) == 4
    assert list(find_films(straight)) == sorted(hashes(straight))


def test_the_model_is_loaded_once(model, tmp_path, monkeypatch):
    loads, load = [], sets.load_with_choices
    monkeypatch.setattr(sets, "load_with_choices", lambda *a: loads.append(a) or load(*a))
    film(tmp_path / "out", model)
    assert len(loads) == 1


def test_parts_make_the_same_films_together(straight, model, tmp_path):
    for part in ((2, 2), (1, 2)):
        film(tmp_path / "out", model, FilmSet(STORIES, (0, 1), part))
    assert hashes(tmp_path / "out") == hashes(straight)
    with pytest.raises(UsageError, match="--part 3/2: there are parts 1 to 2"):
        FilmSet(STORIES, (0,), (3, 2))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_story_can_have_are_refused_before_the_model_is_loaded(seed):
    with pytest.raises(UsageError, match=f"seed must be at least 0 and .*, not {seed}"):
        FilmSet(STORIES, (0, seed))


@pytest.mark.parametrize("edited", ["[1]", '{"choices": [1]}', "3"])
def test_an_edited_set_json_is_refused(straight, model, tmp_path, edited):
    shutil.copytree(straight, tmp_path / "out")
    (tmp_path / "out" / "set.json").write_text(edited)
    with pytest.raises(UsageError, match=r"set\.json was edited, .*: delete it"):
        film(tmp_path / "out", model)


def test_the_same_command_goes_on_where_it_was_stopped(straight, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(StoppedEarly):
            film(out, model)
    assert len(hashes(out)) == 1
    film(out, model)
    assert hashes(out) == hashes(straight)


def test_other_settings_or_stories_are_refused_in_the_same_folder(straight, model):
    with pytest.raises(UsageError, match="steps was 1, is 2"):
        film(straight, model, choices=Choices(**{**vars(CHOICES), "steps": 2}))
    with pytest.raises(UsageError, match="stories_sha256 was"):
        film(straight, model, FilmSet({"waves": STORIES["waves"]}, (0,)))
    film(straight, model, FilmSet(STORIES, (1,)))


def test_a_set_goes_on_only_with_the_weights_it_was_begun_with(straight, model, tmp_path):
    out, other = tmp_path / "out", tmp_path / "model"
    shutil.copytree(straight, out)
    shutil.copytree(model, other)
    shutil.rmtree(out / "1" / "waves")
    told = json.loads((out / "set.json").read_text())
    (out / "set.json").write_text(json.dumps(told | {"model": str(other)}))
    weights = next((other / "vae").glob("*.safetensors"))
    content = weights.read_bytes()
    tensors = load_file(weights)
    next(iter(tensors.values())).flat[0] += 1
    save_file(tensors, weights)
    with pytest.raises(UsageError, match=r"made otherwise .*\.vae was \w{12}, is \w{12}$"):
        film(out, other)
    (out / "set.json").write_text(json.dumps(told | {"model": str(other)}))
    weights.write_bytes(content)
    film(out, other)
    assert hashes(out) == hashes(straight)


def test_adapters_may_come_as_a_list_and_are_known_by_their_content(model, tmp_path):
    file, out, rng = tmp_path / "a.safetensors", tmp_path / "out", np.random.default_rng(3)

    def adapter():
        pair = {"A": (2, 24), "B": (32, 2)}
        names = {f"blocks.1.ffn.0.lora_{side}.weight": shape for side, shape in pair.items()}
        save_file(
            {name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()},
            file,
        )

    adapter()
    wanted = FilmSet({"waves": STORIES["waves"]}, (0,))
    asked = dataclasses.replace(CHOICES, lora=[str(file)])
    film(out, model, wanted, asked)
    assert len(hashes(out)) == 1
    film(out, model, wanted, asked)
    adapter()
    with pytest.raises(UsageError, match=r"lora 0 was \w{12}, is \w{12}$"):
        film(out, model, wanted, asked)


def test_prompts_may_be_added_to_the_embeddings_but_of_no_other_encoder(model, tmp_path):
    file, folder, out = tmp_path / "prompts", tmp_path / "model", tmp_path / "out"
    shutil.copytree(model, folder)
    asked, wanted = dataclasses.replace(CHOICES, embeddings=file), FilmSet(STORIES, (0,))
    save_story_embeddings(STORIES["waves"], file, model=folder, progress=False)
    with pytest.raises(DataError, match="1 of 2 films failed"):
        film(out, folder, wanted, asked)
    save_story_embeddings(STORIES["sleeps"], file, model=folder, progress=False)
    film(out, folder, wanted, asked)
    assert len(hashes(out)) == 2
    shutil.rmtree(folder / "text_encoder")  # else the model refuses them
    PromptEmbeddings("0" * 64, PromptEmbeddings.load(file).rows).save(file)
    with pytest.raises(UsageError, match=r"embeddings' text encoder was \w{12}, is 000000000000$"):
        film(out, folder, wanted, asked)


def test_a_file_in_the_way_of_the_folder_is_told_first(model, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="out is a file, and --out is a folder"):
        film(tmp_path / "out", model)


def test_films_that_cannot_be_made_do_not_stop_the_others(model, tmp_path):
    for name in ("0/waves", "0/sleeps", "1/waves"):
        (tmp_path / name / "film.mp4").mkdir(parents=True)
    with pytest.raises(DataError, match=r"3 of 4 films failed; the same.*0/waves: .*film.mp4"):
        film(tmp_path, model)
    assert sorted(hashes(tmp_path)) == ["1/sleeps"]


def test_a_fault_of_the_disk_or_the_model_stops_the_set(model, tmp_path, monkeypatch):
    def fails(*of):
        raise DataError("the disk is full")

    monkeypatch.setattr(sets, "_film", fails)
    said = "3 of 4 films failed; stopped after 3 failures in a row, 1 film not tried; the same"
    with pytest.raises(DataError, match=said):
        film(tmp_path, model)


def test_stories_are_those_that_evaluate_measures(tmp_path):
    """Every form of --stories, also with what benchmarks add."""
    told = {**STORIES["waves"].story.to_dict(), "id": "waves", "tags": ["sea"]}
    told["shots"][0]["characters"] = ["Mia"]
    forms = {"lines.jsonl": told, "list.json": [told], "map.yaml": {"stories": {"waves": told}}}
    for name, form in {**forms, "one.json": told}.items():
        (tmp_path / name).write_text(json.dumps(form))
        assert recipes(tmp_path / name) == {"waves": STORIES["waves"]}
        assert film_stories(tmp_path / name)["waves"].cast == (("Mia",),)
    labels = small_set(tmp_path / "set")
    (tmp_path / "set/small/.hidden.yaml").write_text("{}")
    assert list(recipes(labels)) == list(film_stories(labels)) == ["harbour", "galley"]
    (tmp_path / "set/small/extra.yaml").write_text("{}")
    for read in (recipes, film_stories):
        with pytest.raises(UsageError, match=r"extra\.yaml has no labels"):
            read(labels)


def test_the_command_reads_a_folder_of_stories(straight, model, tmp_path):
    (tmp_path / "set").mkdir()
    for name, recipe in STORIES.items():
        write_story(recipe.story, tmp_path / "set" / f"{name}.yaml")
    (tmp_path / "set" / "._waves.yaml").write_bytes(b"\0\5\x16\7")
    assert list(recipes(tmp_path / "set")) == ["sleeps", "waves"]
    words = f"--stories {tmp_path / 'set'} --seeds 0,1 --model {model} --out {tmp_path / 'out'} "
    words += "--steps 1 --scale 2 --window 1 --memory-frames 3 --pool-frames 9 --no-progress"
    command.main(words.split())
    assert hashes(tmp_path / "out") == hashes(straight)
    with pytest.raises(UsageError, match="--overwrite, --seed cannot be with --stories"):
        command.main([*words.split(), "--seed", "3", "--overwrite"])
    with pytest.raises(UsageError, match="--part need --stories"):
        command.main(["--prompt", "A fox.", "--part", "1/2", "--out", str(tmp_path / "one")])
    assert list(recipes(tmp_path / "set" / "waves.yaml")) == ["waves"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="holds no story"):
        command.main(["--stories", str(tmp_path / "none"), "--out", str(tmp_path / "x")])
