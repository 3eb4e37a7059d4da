"""`causalcine film` from flags to files: its outputs, the same film from film.json, refusals."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from safetensors.numpy import load_file, save_file
from tiny_models import WORDS, tiny_folder

from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.film.record_schema import NEEDED, FilmRecord
from causalcine_jax.film_folder import agreement
from causalcine_jax.film_folder.generate import Choices, generate
from causalcine_jax.film_folder.record import Recipe, pretty, read_recipe, timings
from causalcine_jax.film_folder.unfinished import FilmRequest
from causalcine_jax.presets import preset
from causalcine_jax.render.mp4 import read_film
from causalcine_jax.story import Shot, Story, read_story
from causalcine_jax.storyworld import ACCESSORIES, COLOURS
from causalcine_jax.storyworld.grammar import MAX_PROMPT_WORDS, words
from causalcine_jax.utils.atomic_file import write_json, write_text
from causalcine_jax.utils.plain_data import read_plain

STORY = """\
schema: causalcine/story@1
global: A story.
seed: 4
shots:
  - {id: mia, caption: Mia waves. Mia is red., seconds: 1.5}
  - {caption: Otto sleeps., seconds: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("film")
    (out / "story.yaml").write_text(STORY)
    record = generate(read_recipe(out / "story.yaml"), out, model=folder, progress=False)
    return out, record


def test_adapters_are_merged_while_filming_as_they_are_in_conversion(
    made, folder, tmp_path, capsys
):
    out, plain = made
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        pair = {
            f"blocks.1.ffn.0.lora_{s}.weight": rng.standard_normal(shape).astype(np.float32)
            for s, shape in (("A", (2, 24)), ("B", (32, 2)))
        }
        save_file(pair, tmp_path / f"{name}.safetensors")
    lora = (f"{tmp_path / 'a.safetensors'}:0.8", str(tmp_path / "b.safetensors"))
    choices = Choices(lora=lora, scale=1)
    film = generate(
        read_recipe(out / "story.yaml"), tmp_path / "film", model=folder, choices=choices
    )
    assert "lora a.safetensors: strength 0.8, scale 1 of 1 weights" in capsys.readouterr().err
    convert(ConvertConfig(folder, tmp_path / "merged", lora=lora, progress=False))
    same = generate(
        read_recipe(out / "story.yaml"),
        tmp_path / "same",
        model=tmp_path / "merged",
        choices=Choices(scale=1),
        progress=False,
    )
    assert film["frames_sha256"] == same["frames_sha256"] != plain["frames_sha256"]
    assert [(each["file"], each["strength"]) for each in film["loras"]] == [
        ("a.safetensors", 0.8),
        ("b.safetensors", 1.0),
    ]
    assert "loras" not in same and "loras" not in plain
    assert FilmRecord.from_dict(film, needed=NEEDED).loras == tuple(film["loras"])
    for value in ("a", [1], [{"file": "a", "strength": "0.8", "sha256": "0"}]):
        with pytest.raises(UsageError, match=r"loras must be a list of {file, strength, sha256}"):
            FilmRecord.from_dict({**film, "loras": value}, needed=NEEDED)
    with pytest.raises(DataError, match=r"no LoRA at .*: there is no such file"):
        generate(
            read_recipe(out / "story.yaml"),
            tmp_path / "none",
            model=folder,
            choices=Choices(lora=("nowhere.safetensors",)),
        )


def launch(*flags, cwd=None, **environment):
    command = [sys.executable, str(ROOT / "launch" / "generate.py"), *map(str, flags)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gathered", "sharded"])
def test_two_devices_make_the_film_together(weights, made, folder, tmp_path):
    out, record = made
    two = {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    done = launch(
        "--story",
        out / "film.json",
        "--model",
        folder,
        "--out",
        tmp_path / "film",
        "--seq",
        2,
        "--rollout-weights",
        weights,
        **two,
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "film" / "film.json").read_text())
    assert (again["device"]["seq"], again["device"]["rollout_weights"]) == (2, weights)
    assert again["timings"]["pool_bytes"] == record["timings"]["pool_bytes"]
    pictures = [read_film(folder / "film.mp4").astype(int) for folder in (out, tmp_path / "film")]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


def test_devices_that_are_not_there_are_not_asked_to_help(made, folder, tmp_path):
    with pytest.raises(
        UsageError, match=r"1 devices are not enough for groups of seq=2: seq can be 1"
    ):
        generate(
            read_recipe(made[0] / "film.json"),
            tmp_path / "new",
            model=folder,
            choices=Choices(seq=2),
            progress=False,
        )
    assert not (tmp_path / "new").exists()


def test_the_folder_holds_the_film_and_all_about_it(made):
    out, record = made
    assert sorted(p.name for p in out.iterdir()) == [
        "contact_sheet.png",
        "film.json",
        "film.mp4",
        "memory.png",
        "story.yaml",
    ]
    assert read_film(out / "film.mp4").shape == (
        57,
        384,
        768,
        3,
    )  # 32x16 pixels enlarged 24 times to be seen
    assert Image.open(out / "contact_sheet.png").width > 2000
    assert json.loads((out / "film.json").read_text()) == record
    assert record["story"] == read_story(out / "story.yaml").to_dict() | {
        "video": {"fps": 16, "width": 32, "height": 16}
    }
    assert record["resolved"]["cut_frames"] == [21] and record["resolved"]["asked_cut_frames"] == [
        24
    ]
    assert len(record["retrieved"]) == len(record["timings"]["chunks"]) == 5
    assert all(len(frames) == 2 for layers in record["retrieved"] for frames in layers)
    assert (
        record["timings"]["fps"] > 0
        and record["software"]["jax"]
        and record["device"]["platform"] == "cpu"
    )


def test_a_film_json_makes_the_same_film_again(made, folder, tmp_path, capsys):
    out, record = made
    again = generate(read_recipe(out / "film.json"), tmp_path, model=folder)
    assert again["frames_sha256"] == record["frames_sha256"]
    said = capsys.readouterr().err
    assert "the same film, frame by frame" in said and "chunk 5/5  shot 2/2 s2" in said


def test_choices_override_the_record_and_are_recorded(made, folder, tmp_path):
    out, record = made
    choices = Choices(seed=5, scale=1)
    other = generate(
        read_recipe(out / "film.json"), tmp_path, model=folder, choices=choices, progress=False
    )
    assert other["frames_sha256"] != record["frames_sha256"]
    assert (other["story"]["seed"], other["memory"], other["scale"]) == (5, record["memory"], 1)
    assert read_film(tmp_path / "film.mp4").shape == (57, 16, 32, 3)


def test_the_pictures_are_enlarged_for_the_size_asked_for(made, folder, tmp_path):
    recipe, choices = read_recipe(made[0] / "film.json"), Choices(size=(48, 32), steps=1)
    film = generate(recipe, tmp_path, model=folder, choices=choices, progress=False)
    assert (made[1]["scale"], film["scale"]) == (24, 12)


def test_a_film_of_kept_chunks_alone_has_no_speed():
    kept, made = {"commit": 0.1, "decode": 0.1}, {"denoise": 0.6, "commit": 0.1, "decode": 0.1}
    replayed = timings([9, 12, 12, 12], [kept] * 4)
    assert (replayed["fps"], replayed["fps_without_decode"]) == (None, None)
    assert len(replayed["chunks"]) == 4
    assert timings([9, 12, 12, 12], [kept, kept, made, made])["fps"] == 15


def test_a_pool_is_derived_anew_where_its_film_gets_longer_and_else_kept(folder, tmp_path):
    def film(name, recipe=None, **choices):
        recipe = recipe or Recipe(Story((Shot("Mia waves.", chunks=1),)))
        asked = Choices(steps=1, guidance=1.0, scale=1, **choices)
        return generate(recipe, tmp_path / name, model=folder, choices=asked, progress=False)

    of_pool = lambda film: (film["pool_frames"], film["pool_asked"])
    assert of_pool(film("short")) == of_pool(
        film("again", read_recipe(tmp_path / "short/film.json"))
    )
    asked = film("asked", pool_frames=12)
    again = film("asked again", read_recipe(tmp_path / "asked/film.json"))
    assert of_pool(asked) == of_pool(again) == (12, True)
    again = read_recipe(tmp_path / "again/film.json")
    assert (again.record.pool_frames, again.record.pool_asked) == (72, False)
    assert of_pool(film("long", again, frames=301)) == (144, False)


def test_a_film_json_that_lacks_something_says_what(made, tmp_path):
    out, _ = made
    data = json.loads((out / "film.json").read_text())
    del data["memory"]
    (tmp_path / "film.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"film\.json: this film\.json lacks 'memory'"):
        read_recipe(tmp_path / "film.json")


def test_an_unreadable_prompt_or_a_bad_choice_writes_nothing(made, folder, tmp_path):
    out, _ = made
    recipe = read_recipe(out / "story.yaml")
    for choices, fault in (
        (Choices(pool_frames=4), "not a positive multiple of 3"),
        (Choices(steps=0), "steps must be an integer from 1"),
        (Choices(scale=0), "scale must be at least 1"),
    ):
        with pytest.raises(UsageError, match=fault):
            generate(recipe, tmp_path / "new", model=folder, choices=choices, progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda model: (model / "metadata.json").write_text("{"), "metadata.json"),
        (
            lambda model: (model / "metadata.json").write_text('{"video": {"hight": 3}}'),
            "metadata.json",
        ),
        (
            lambda model: (model / "vae" / "model.safetensors").write_bytes(b"broken"),
            "model.safetensors",
        ),
        (lambda model: (model / "text_encoder" / "tokenizer.json").unlink(), "no tokenizer at"),
        (
            lambda model: (model / "vae").rename(model / "elsewhere"),
            "is not a model folder: it lacks vae/",
        ),
    ],
)
def test_a_damaged_model_is_named(made, folder, tmp_path, damage, fault):
    shutil.copytree(folder, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(DataError, match=fault):
        generate(
            read_recipe(made[0] / "story.yaml"),
            tmp_path / "new",
            model=tmp_path / "model",
            progress=False,
        )
    assert not (tmp_path / "new").exists()


def test_faults_of_a_story_leave_exit_code_2_and_one_message(tmp_path):
    (tmp_path / "story.yaml").write_text(STORY.replace("seconds: 2", "second: 2"))
    done = launch("--story", "story.yaml", "--out", "film", cwd=tmp_path)
    assert (
        done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "film").exists()
    )
    assert (
        "shot 2: unknown key 'second', did you mean 'seconds'?; shot 2: has no duration"
        in done.stderr
    )


def test_processes_compare_what_their_models_and_starts_hold(made, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "other")
    file = next((tmp_path / "other" / "vae").glob("*.safetensors"))
    tensors = load_file(file)
    list(tensors.values())[-1].flat[0] += 1e-3
    save_file(tensors, file)
    Image.new("RGB", (32, 16)).save(tmp_path / "start.png")
    monkeypatch.setattr(agreement, "several", lambda: True)
    compared = []
    monkeypatch.setattr(agreement, "check_same", compared.append)
    recipe, choices = (
        read_recipe(made[0] / "film.json"),
        Choices(start=tmp_path / "start.png", start_caption="Mia waves.", seq=1),
    )
    for model in (folder, tmp_path / "other"):
        assert agreement.agreed(FilmRequest(recipe, model, choices))[1] == model
    asked, held, _, others = json.loads(json.dumps(compared))
    assert (asked["seq"], asked["model"], asked["film.json"]["scale"]) == (
        "1",
        str(folder),
        24,
    ) and "retrieved" not in asked["film.json"]
    assert held["model"]["sampler"]["steps"] == 2 and {"start", "tokenizer"} <= held.keys()
    assert (
        held["weights"].keys() == others["weights"].keys() == {"transformer", "vae", "text_encoder"}
    )
    assert held["weights"].pop("vae") != others["weights"].pop("vae") and held == others


def test_the_command_makes_a_film(folder, tmp_path):
    (tmp_path / "story.yaml").write_text(
        STORY.replace("seconds: 1.5", "chunks: 1").replace("seconds: 2", "chunks: 1")
    )
    flags = (
        "--model",
        folder,
        "--steps",
        1,
        "--guidance",
        1,
        "--policy",
        "none",
        "--sampler",
        "euler",
        "--scale",
        2,
        "--pool-frames",
        12,
        "--seed",
        3,
    )
    done = launch("--story", "story.yaml", "--out", "film", *flags, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "") and "chunk 2/2  shot 2/2 s2" in done.stderr
    record = json.loads((tmp_path / "film" / "film.json").read_text())
    assert (
        record["sampler"]["solver"],
        record["sampler"]["steps"],
        record["sampler"]["guidance"],
    ) == ("euler", 1, 1.0)
    assert (
        record["memory"]["policy"],
        record["pool_frames"],
        record["scale"],
        record["story"]["seed"],
    ) == ("none", 12, 2, 3)
    assert not (tmp_path / "film" / "memory.png").exists()


def test_missing_weights_leave_exit_code_1(tmp_path):
    (tmp_path / "story.yaml").write_text(STORY)
    done = launch("--story", "story.yaml", "--out", "film", "--model", "none", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "Traceback" not in done.stderr
        and "none is not a model folder" in done.stderr
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_examples_speak_only_what_the_small_model_knows(path):
    resolved = read_story(path).resolve()
    most = min(MAX_PROMPT_WORDS + 1, preset("storyworld").transformer.text_len)
    check_prompts([(shot.id, shot.prompt) for shot in resolved.shots], WORDS, most)


def test_the_demo_is_the_film_that_the_readme_promises():
    resolved = read_story(ROOT / "examples" / "demo.yaml").resolve()
    assert (len(resolved.shots), resolved.chunks, resolved.frames) == (6, 24, 285)
    first, *between, again, together = resolved.shots
    looks = {*COLOURS, *ACCESSORIES, "fur", "wears"}
    assert looks & set(words(first.caption))
    assert not looks & {*words(again.prompt), *words(together.prompt)}
    assert "mia" in words(again.caption) and not any(
        "mia" in words(shot.caption) for shot in between
    )
    assert again.first_chunk - first.end_chunk > 3  # longer than the window
    assert {"mia", "otto"} <= set(words(together.caption))


def test_a_name_that_is_not_utf8_is_written_and_read_back(tmp_path):
    told = {"start": {"file": os.fsdecode(b"caf\xe9.png"), "caption": "A caf\u00e9."}}
    for write in (
        lambda file: write_text(file, pretty(told)),
        lambda file: write_json(file, told, ensure_ascii=False),
    ):
        write(tmp_path / "film.json")
        assert read_plain(tmp_path / "film.json") == told


def test_numbers_stay_on_one_line():
    text = pretty({"a": [1, 2, [3]], "b": [[[1]], [[2]]], "c": ["x", "y"], "d": {}, "e": []})
    assert json.loads(text) == {
        "a": [1, 2, [3]],
        "b": [[[1]], [[2]]],
        "c": ["x", "y"],
        "d": {},
        "e": [],
    }
    assert '"a": [1, 2, [3]]' in text and "    [[1]],\n    [[2]]" in text
