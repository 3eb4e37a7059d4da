"""All frames at once: the engine, and `causalcine film --whole-film` on Wan2.1's own folder."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from repository import ROOT
from tiny_checkpoints import wan_folder
from tiny_models import tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import embed, noise_of, text_context
from causalcine_jax.film.whole_film import (
    NO_MEMORY,
    denoise_film,
    latent_frames,
    nearest_length,
    new_whole_film,
    roll_whole_film,
)
from causalcine_jax.render.mp4 import read_film

SAMPLER = SamplerConfig("euler", steps=2, guidance=3.0)


def test_a_film_has_one_frame_and_four_for_each_latent_frame_more():
    assert [latent_frames(n) for n in (1, 5, 81)] == [1, 2, 21]
    assert [nearest_length(n) for n in (0.2, 3.2, 78.9, 80, 81)] == [1, 5, 77, 81, 81]
    for frames, nearest in ((80, "77 or 81"), (2, "1 or 5"), (0, "1 or 5")):
        with pytest.raises(
            UsageError, match=rf"frames must be 4 n \+ 1, not {frames} \(nearest: {nearest}\)"
        ):
            latent_frames(frames)


def test_the_film_is_one_denoising_decoded_whole():
    model = tiny_model(chunk_frames=5)
    settings = FilmSettings(SAMPLER, NO_MEMORY, PoolConfig(), 16, 32, seed=3)
    state = new_whole_film(model, settings)
    ended, made = roll_whole_film(model, state, embed(model, "Mia waves.", settings), settings)
    assert made.frames.shape == (17, 16, 32, 3) and ended.cache is None and made.retrieved.size == 0

    text = text_context(
        model.transformer, jnp.concatenate([model.embed("Mia waves."), model.embed("")])
    )
    noise, key = noise_of(state.key, jnp.int32(0), (1, 5, 4, 8, 16))
    x0 = denoise_film(model.transformer, noise, text, key, sampler=SAMPLER)
    expected = (np.asarray(model.vae.decode(x0))[0] + 1) * 127.5
    assert np.abs(made.frames - expected).max() <= 1
    # The last frame's noise reaches the first frame: nothing is causal here.
    other = denoise_film(model.transformer, noise.at[:, -1].add(1.0), text, key, sampler=SAMPLER)
    assert np.abs(np.asarray(other - x0)[:, 0]).max() > 1e-3


def test_wan_makes_a_film_from_its_own_folder(tmp_path):
    wan_folder(tmp_path / "Wan2.1-T2V-1.3B")
    story = {
        "schema": "causalcine/story@1",
        "negative": "a",
        "shots": [{"caption": "a fox", "seconds": 0.3}],
    }
    (tmp_path / "story.json").write_text(json.dumps(story))
    flags = [
        "--story",
        "story.json",
        "--model",
        "Wan2.1-T2V-1.3B",
        "--whole-film",
        "--size",
        "48x32",
        "--steps",
        "2",
        "--scale",
        "1",
        "--out",
        "film",
    ]
    command = [sys.executable, str(ROOT / "launch" / "generate.py"), *flags]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "the whole film at once; unipc, 2 steps, guidance 6" in done.stderr
    assert read_film(tmp_path / "film" / "film.mp4").shape == (5, 32, 48, 3)
    record = json.loads((tmp_path / "film" / "film.json").read_text())
    assert (
        record["whole_film"],
        record["chunk_frames"],
        record["dtype"],
        record["sampler"]["shift"],
    ) == (True, 2, "bfloat16", 8.0)
