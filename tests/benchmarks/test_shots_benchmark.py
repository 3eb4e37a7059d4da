"""The films that measure shot detectors: their truth, and how findings are counted."""

import numpy as np

from benchmarks.shot_films import cut_film, story_film
from benchmarks.shots import count, summary, total, transitions
from causalcine_jax.data.video.shots import DetectedShot


def plain(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A shot of one grey level below 128 and no motion."""
    return np.full((frames, 90, 160, 3), rng.integers(128), np.uint8)


def test_a_cut_films_truth_is_in_its_pixels():
    film = cut_film(plain, np.random.default_rng(5))
    brightness = film.frames.mean((1, 2, 3))
    assert len(film.shots) == 12 and film.shots[-1].end == len(film.frames)
    bright = np.zeros(len(film.frames), bool)
    for flash in film.flashes:
        bright[flash.start : flash.end] = True
        assert any(shot.start < flash.start and flash.end < shot.end for shot in film.shots)
    for shot in film.shots:
        inside = np.arange(shot.start, shot.end)
        steady = brightness[inside[~bright[inside]]]
        assert len(steady) >= 10 and np.ptp(steady) == 0
        assert np.all(brightness[inside[bright[inside]]] > steady[0] + 50)
    kinds = {len(gap) > 0 for gap in transitions(film.shots)}
    assert kinds == {True, False} and film.flashes, "another seed, which has all kinds"


def test_a_storys_shots_cover_its_film():
    film = story_film(3)
    assert film.shots[0].start == 0 and film.shots[-1].end == len(film.frames)
    assert len(film.shots) > 3 and not any(len(gap) for gap in transitions(film.shots))


def test_findings_are_counted():
    film = cut_film(plain, np.random.default_rng(5))
    perfect = summary(count(film, film.shots))
    assert perfect["cut_recall"] == perfect["cut_precision"] == 1
    assert perfect["gradual_found"] == perfect["gradual"] > 0
    wrong = ("gradual_wrong", "flashes_reported", "mixed_frames_in_shots", "unmixed_frames_lost")
    assert [perfect[name] for name in wrong] == [0] * 4
    assert perfect["cuts"] + perfect["gradual"] == 11

    nothing = count(film, (DetectedShot(0, len(film.frames)),))
    assert nothing["cuts_found"] == nothing["gradual_found"] == 0
    assert nothing["mixed_frames_in_shots"] == perfect["mixed_frames"]

    flash = film.flashes[0]
    cut_at = lambda frame, shots: tuple(
        part
        for shot in shots
        for part in (
            [DetectedShot(shot.start, frame), DetectedShot(frame, shot.end)]
            if shot.start < frame < shot.end
            else [shot]
        )
    )
    fooled = count(film, cut_at(flash.start, film.shots))
    assert fooled["flashes_reported"] == 1 and fooled["cuts_reported"] == perfect["cuts"] + 1
    both = total([fooled, count(film, film.shots)])
    assert both["films"] == 2 and both["gradual_wrong"] == 0
    assert summary(both)["cut_precision"] == 2 * perfect["cuts"] / (2 * perfect["cuts"] + 1)
