"""Shots from evidence, and evidence from streamed frames. The networks' weights are random."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_weights

from causalcine_jax.data.video import shots, transitions
from causalcine_jax.data.video.shots import DetectedShot, shot_detector, shots_between
from causalcine_jax.data.video.transitions import (
    Evidence,
    find_transitions,
    gather_evidence,
)
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.shot_detector.transnet import TransNet


@pytest.fixture(scope="module")
def network():
    small = random_weights(lambda key: TransNet(key=key, channels=4, hidden=8), 0)
    return jax.tree.map(lambda leaf: abs(leaf) if leaf.ndim == 1 else 0.3 * leaf, small)


def noise(frames: int, height: int = 27, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


def found(middle: str, every: str, lasting: str = "", sudden: str = "") -> list[tuple[int, int]]:
    """The transitions for a digit per frame: tenths, but of `sudden` the number itself."""
    row = lambda digits, size=10: np.array([int(d) / size for d in digits], np.float32)
    lasting, sudden = lasting or "9" * len(middle), sudden or "0" * len(middle)
    return find_transitions(Evidence(row(middle), row(every), row(lasting), row(sudden, 1)))


def test_hard_cuts():
    assert found("000900000", "000800000") == [(4, 4)]
    assert found("000960000", "000730000") == [(4, 4)]  # its neighbour is marked too
    assert found("000090900", "000090900") == [(5, 5), (7, 7)]
    assert found("000020000", "000970000") == []  # the first head decides
    assert found("000000000", "000000000") == []


def test_gradual_transitions_extend_while_the_second_head_suspects_one():
    assert found("000090000", "003999300") == [(2, 7)]
    assert found("0000900000", "0039994100") == [(2, 7)]
    # Fades dip where the picture is black.
    assert found("00060000600", "00999334999") == [(2, 11)]
    assert found("090000000000", "090099999000") == [(2, 2), (4, 9)]
    # A cut inside or at the ends of one is a part of it.
    assert found("000090090000", "000999999000") == [(3, 9)]
    assert found("00900000", "30999900", sudden="09900000") == [(2, 6)]


def test_flashes_and_cuts_that_the_picture_confirms():
    assert found("000900000", "000800000", lasting="999199999") == []
    assert found("000200000", "000100000", sudden="000900000") == [(4, 4)]
    assert found("000200000", "000100000", sudden="000100000") == []
    assert found("000000000", "000000000", sudden="000900000") == []


def test_shots_between_transitions():
    assert shots_between([], 7) == (DetectedShot(0, 7),)
    assert shots_between([(2, 2), (4, 9)], 12) == (
        DetectedShot(0, 2),
        DetectedShot(2, 4),
        DetectedShot(9, 12),
    )
    assert shots_between([(0, 3), (10, 12)], 12) == (DetectedShot(3, 10),)
    assert shots_between([(0, 5)], 5) == shots_between([], 0) == ()
    assert [len(shot) for shot in shots_between([(2, 2)], 5)] == [2, 3]


@pytest.mark.parametrize("frames", [1, 24, 50, 51, 75, 100, 163])
def test_a_stream_is_padded_as_in_the_reference(network, frames):
    """Windows of 100 every 50, after 25 copies of the first frame and before copies of the last."""
    film = noise(frames)
    ends = 25, 25 + 50 - (frames % 50 or 50)
    padded = np.concatenate([film[:1].repeat(ends[0], 0), film, film[-1:].repeat(ends[1], 0)])
    wanted = [
        network(jnp.asarray(padded[None, first : first + 100]))[0, 25:75]
        for first in range(0, len(padded) - 99, 50)
    ]
    wanted = jax.nn.sigmoid(jnp.concatenate(wanted)[:frames])
    evidence = gather_evidence(iter(film), network)
    streamed = np.stack([evidence.middle, evidence.every], axis=1)
    assert streamed.shape == (frames, 2) and 0.01 < streamed.std() < 0.6
    np.testing.assert_allclose(streamed, wanted, atol=1e-5)


def test_few_frames_are_held_and_one_program_serves_all_films(network, monkeypatch):
    most, read = 0, 0

    def stream():
        nonlocal read
        for frame in noise(400, 30, 40):
            read += 1
            yield frame

    for n, (window, count) in enumerate(transitions._windows(stream())):
        assert window.shape == (100, 30, 40, 3)
        most = max(most, read - 50 * n)
        assert count == read
    assert most == 75 and read == 400
    before = transitions._judged._cache_size()
    gather_evidence(noise(120, 30, 40), network)
    compiled = transitions._judged._cache_size()
    gather_evidence(noise(60, 64, 36), network)
    assert before <= compiled == transitions._judged._cache_size()


def test_what_the_picture_says():
    """A cut lasts and is sudden, a flash does not last, and motion is not sudden."""
    film = np.full((100, 27, 48, 3), 50, np.uint8)
    film[40:] = 150  # a cut
    film[60:62] = 250  # a flash
    film[70:] = np.minimum(150 + 5 * np.arange(30), 250)[:, None, None, None]
    lasting, sudden = np.asarray(transitions._changes(jnp.asarray(film))).T
    at = lambda frame: (lasting[frame - 25], sudden[frame - 25])
    assert at(39) == (pytest.approx(1), pytest.approx(1e5))
    assert at(59)[0] == at(61)[0] == 0
    assert at(72)[1] == pytest.approx(1)


def test_detectors_are_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"no shot detector is called 'transent'.*'transnet'"):
        shot_detector("transent")
    with pytest.raises(DataError, match=r"no weights of TransNetV2 at .*none\.pth"):
        shot_detector("transnet", tmp_path / "none.pth")
    with pytest.raises(UsageError, match=r"scenedetect takes no weights, but was given 'a\.pth'"):
        shot_detector("scenedetect", "a.pth")
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(UsageError, match=r'pip install "causalcine-jax\[video\]"'):
        shot_detector("scenedetect")


def test_transnet_detects_shots(network, monkeypatch):
    monkeypatch.setattr(shots, "load_shot_detector", lambda weights: network)
    detect = shot_detector("transnet")
    film = noise(130, 54, 96)
    wanted = find_transitions(gather_evidence(film, network))
    assert detect(iter(film)) == shots_between(wanted, 130)
    assert detect(iter(())) == ()


def test_scenedetect_detects_cuts():
    pytest.importorskip("scenedetect", reason="the extra `video` is not installed")
    detect = shot_detector("scenedetect")
    scenes = np.random.default_rng(0).integers(0, 256, (3, 1, 54, 600, 3), np.uint8)
    scenes = np.kron(scenes[:, :, ::27, ::300], np.ones((1, 1, 27, 300, 1), np.uint8))
    film = np.concatenate([scene.repeat(n, 0) for scene, n in zip(scenes, (20, 31, 25))])
    assert detect(iter(film)) == (DetectedShot(0, 20), DetectedShot(20, 51), DetectedShot(51, 76))
    assert detect(iter(())) == ()
    assert detect(iter(film)) == detect(iter(film)), "a detector is ready for the next film"
