"""The programs in examples/, at small length."""

import json
import runpy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from tiny_models import tiny_folder, tiny_model

from causalcine_jax.config import MemoryConfig
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import read_recipe
from causalcine_jax.render.mp4 import read_film
from causalcine_jax.story import Shot, Story, write_story

CAPTIONS = ("Mia waves.", "Otto sleeps.", "Otto walks left.", "Nobody in the forest.", "Mia jumps.")


def example(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / f"{name}.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights that were made for a long window and no memory, as Self-Forcing was."""
    memory = MemoryConfig("none", window_chunks=6, memory_frames=0, positions="absolute")
    return tiny_folder(tmp_path_factory.mktemp("models") / "other", tiny_model(memory=memory))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Five shots of one chunk, so that the last one's memory is the first shot."""
    path = tmp_path_factory.mktemp("stories") / "story.yaml"
    shots = tuple(Shot(caption, chunks=1) for caption in CAPTIONS)
    write_story(Story(shots, global_caption="A story.", seed=4), path)
    return path


def test_a_shot_is_added_while_the_embedded_model_streams(tmp_path, capsys):
    stream = example("stream")
    shots = stream.stream(stream.parse(["--out", str(tmp_path / "film.mp4"), "--chunks", "1"]))
    assert shots == ["s1", "s2", "s3"]
    assert len(read_film(tmp_path / "film.mp4")) == 9 + 12 + 12
    assert "added shot s3, from chunk 3" in capsys.readouterr().out


def test_branches_share_their_beginning_and_a_retake_has_another_ending(tmp_path):
    branch = example("branch")
    files = branch.branch(branch.parse(["--out", str(tmp_path), "--chunks", "1"]))
    one, two, again = (read_film(file).astype(int) for file in files)
    assert len(one) == len(two) == len(again) == 9 + 12
    apart = lambda a, b: (np.abs(a[:9] - b[:9]).mean(), np.abs(a[9:] - b[9:]).mean())
    for ours, theirs in ((one, two), (two, again)):
        beginning, ending = apart(ours, theirs)
        assert beginning < 1 < ending  # H.264 codes the same frames a little differently


def test_camr_goes_back_to_the_first_shot_on_weights_made_without_it(folder, story, tmp_path):
    camr = example("camr_on_other_weights")
    flags = camr.parse(["--model", str(folder), "--story", str(story), "--out", str(tmp_path)])
    assert camr.compare(flags) == {"none": Counter(), "camr": Counter(s1=3 * 2)}  # frames * layers
    films = [read_film(tmp_path / f"{name}.mp4") for name in ("none", "camr")]
    assert not np.array_equal(*films)


def test_a_film_becomes_a_moving_picture_with_its_captions(folder, story, tmp_path, capsys):
    generate(read_recipe(story), tmp_path, model=folder, choices=Choices(), progress=False)
    example("moving_picture").main([str(tmp_path), "--out", str(tmp_path / "film.webp")])
    record = json.loads((tmp_path / "film.json").read_text())
    assert record["resolved"]["frames"] == 57
    with Image.open(tmp_path / "film.webp") as picture:
        assert (picture.n_frames, picture.width) == (29, 480)
        first, last = (np.asarray(_frame(picture, n))[-52:] for n in (0, 28))
    assert np.abs(first.astype(int) - last).mean() > 1  # another caption
    assert "29 frames" in capsys.readouterr().out


def _frame(picture: Image.Image, number: int) -> Image.Image:
    picture.seek(number)
    return picture.convert("RGB")
