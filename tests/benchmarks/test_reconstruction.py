"""Reconstruction of true films, on VAEs whose answers are known."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
from evaluation_films import SEED, WORLD

from benchmarks import reconstruction as module
from benchmarks.reconstruction import RoundTrip, reconstruction, round_trips
from causalcine_jax.evaluation.storyworld.sharpness import edge_energy
from causalcine_jax.evaluation.storyworld.true_films import true_cuts
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import sample_story

ANY_VAE = Mock(spec=VAE)  # `round_trip` is replaced
STORIES = [sample_story(SEED, index, WORLD) for index in range(2)]


def test_edges_by_hand():
    film = np.zeros((1, 2, 3, 3), np.uint8)
    film[:, :, 1:] = 10  # one vertical edge of 10 in three colours, in both rows
    np.testing.assert_array_equal(edge_energy(film)[0], [[30, 0, 0], [30, 0, 0]])


def test_a_constant_error_is_the_psnr_by_hand(monkeypatch):
    monkeypatch.setattr(
        module,
        "round_trip",
        lambda vae, film: np.where(film < 128, film + 10, film - 10).astype(np.uint8),
    )
    numbers = reconstruction(round_trips(ANY_VAE, STORIES))
    expected = 10 * np.log10(255**2 / 100)
    assert (
        numbers["psnr"]
        == numbers["psnr_cut"]
        == numbers["psnr_rest"]
        == pytest.approx(expected, abs=1e-3)
    )
    assert numbers["cuts"] == sum(len(true_cuts(story)) for story in STORIES)


def test_first_frames_after_cuts_are_told_apart_and_a_blur_is_not_sharp(monkeypatch):
    def ghost(vae, film):
        back = film.astype(np.float32)
        for story in STORIES:
            if len(film) == story.world.frames:
                cuts = np.flatnonzero(np.abs(np.diff(back, axis=0)).mean((1, 2, 3)) > 12) + 1
        back[cuts] = (film[cuts].astype(np.float32) + film[cuts - 1]) / 2
        return back.astype(np.uint8)

    monkeypatch.setattr(module, "round_trip", ghost)
    numbers = reconstruction(round_trips(ANY_VAE, STORIES))
    assert numbers["psnr_cut"] < numbers["psnr_rest"]

    monkeypatch.setattr(module, "round_trip", lambda vae, film: np.full_like(film, 128))
    numbers = reconstruction(round_trips(ANY_VAE, STORIES))
    assert numbers["sharpness"] == numbers["edges"] == 0


def test_numbers_of_nothing_are_none_and_never_nan():
    film = np.full((4, 8, 8, 3), 7, np.uint8)
    same = RoundTrip(film, film.copy(), [2], np.zeros((4, 8, 8), bool))
    found = reconstruction([same])
    assert found["psnr"] is found["psnr_cut"] is found["edges"] is None
    json.dumps(found, allow_nan=False)
