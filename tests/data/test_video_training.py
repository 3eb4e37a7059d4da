"""From video files to a film: StoryWorld's films as mp4, prepared, trained on, filmed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.prompt_embeddings import FOLDER, read_spec
from causalcine_jax.film.chosen_model import EMBEDDED
from causalcine_jax.render.mp4 import FilmWriter, read_film
from causalcine_jax.storyworld import WORLDS, render, sample_story, scene_parameters


def joined_films(path, seed: int, count: int) -> None:
    """Writes `count` StoryWorld films as one mp4, four times as large, with HoloCine captions."""
    world, captions, starts, frames = WORLDS["base"](), [], [], 0
    with FilmWriter(path, fps=16, scale=4) as film:
        for index in range(count):
            story = sample_story(seed, index, world)
            film.append(np.asarray(render(scene_parameters(story), world.height, world.width)))
            captions += story.prompts()
            starts += [frames + shot.frames.start for shot in story.shots]
            frames += world.frames
    told = {"shot_captions": captions, "shot_cut_frames": starts[1:]}
    path.with_suffix(".json").write_text(json.dumps(told))


@pytest.mark.slow
def test_a_model_is_trained_on_videos_and_films(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(2):
        joined_films(tmp_path / "videos" / f"{number}.mp4", 9000 + number, 2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

    def causalcine(*words):
        line = [sys.executable, "-m", "causalcine_jax", *map(str, words)]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    said = causalcine(
        "prepare", tmp_path / "videos", "--model", EMBEDDED, "--out", tmp_path / "out",
        "--latent-frames", 30, "--shots", "captions", "--held-out", 0, "--embeddings",
    )  # fmt: skip
    assert "2 videos of 2 files" in said and "3 films: 3 to train on" in said
    assert LatentStore.open(tmp_path / "out" / "train").spec.shapes()["latents"] == (30, 6, 10, 48)
    assert len(read_spec(tmp_path / "out" / "train" / FOLDER).keys) > 3
    causalcine(
        "train", "--config", "configs/embedded.py:first", "--config.steps=2",
        "--config.batch=2", "--config.optim.warmup=1",
        f"--config.data.store={tmp_path / 'out' / 'train'}", f"--config.out={tmp_path / 'run'}",
    )  # fmt: skip
    causalcine(
        "film", "--model", tmp_path / "run" / "model", "--prompt", "Mia the fox waves by day.",
        "--steps", 1, "--out", tmp_path / "film",
    )  # fmt: skip
    assert len(read_film(tmp_path / "film" / "film.mp4")) > 9
