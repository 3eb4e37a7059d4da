"""Films with known cuts, gradual transitions and flashes, drawn from a seed.

Their shots are pans and zooms over photographs, moving textures, and StoryWorld's films. A film's
shots are all of one kind of material, because the kinds differ in how hard they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.storyworld import WorldConfig, render, sample_story, scene_parameters

HEIGHT, WIDTH = 90, 160
SHOTS = 12  # of a film
SHOT_FRAMES = (20, 120)  # without the frames of transitions
DISSOLVE_FRAMES, FADE_FRAMES = (8, 40), (12, 40)
DISSOLVES, FADES = 0.2, 0.1  # fractions of transitions; all others are cuts
FLASHES = 0.25  # of shots

Video = np.ndarray  # uint8 [T,H,W,3]


@dataclass(frozen=True)
class KnownFilm:
    """A film and its truth.

    shots    the ranges of frames that show one shot alone
    flashes  the ranges of frames inside shots that a photographer's flash brightens
    """

    frames: Video
    shots: tuple[DetectedShot, ...]
    flashes: tuple[DetectedShot, ...]


def photographs() -> list[Image.Image]:
    """The colour photographs that scikit-image ships, and Hopper's portrait from matplotlib."""
    import skimage.data
    from matplotlib import cbook

    names = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry",
             "retina", "rocket")  # fmt: skip
    pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    pictures.append(Image.fromarray(skimage.data.stereo_motorcycle()[0]))
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        pictures.append(picture.convert("RGB"))
    return pictures


def photograph_shot(
    pictures: Sequence[Image.Image], rng: np.random.Generator, frames: int
) -> Video:
    """A camera that moves and zooms over one photograph, a little unsteadily."""
    picture = pictures[int(rng.integers(len(pictures)))]
    widest = min(picture.width, picture.height * WIDTH / HEIGHT)
    ends = rng.uniform(0.3, 0.9, 2) * widest
    if rng.random() < 0.4:  # no zoom
        ends[1] = ends[0]
    progress = np.linspace(0, 1, frames)
    width = ends[0] + (ends[1] - ends[0]) * progress
    height = width * HEIGHT / WIDTH
    room = np.stack([picture.width - width, picture.height - height], axis=1)
    start, speed = rng.random(2), rng.normal(0, 0.15 / 25, 2)  # of the room, per frame
    corner = np.clip(start + speed * np.arange(frames)[:, None], 0, 1) * room
    corner += rng.normal(0, 0.002, (frames, 2)) * width[:, None]
    corner = np.clip(corner, 0, room)
    boxes = np.concatenate([corner, corner + np.stack([width, height], axis=1)], axis=1)
    return np.stack(
        [
            np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, tuple(box), 2.0))
            for box in boxes
        ]
    )


def texture_shot(rng: np.random.Generator, frames: int) -> Video:
    """Waves of colour and three discs in front of them, each moving in its own way."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    t = np.arange(frames)[:, None, None] / 25
    ground = np.zeros((frames, HEIGHT, WIDTH, 3))
    for _ in range(4):
        across, down = rng.normal(0, 6, 2)
        wave = np.sin(across * x + down * y + rng.normal(0, 2) * t + rng.uniform(0, 6.3))
        ground += wave[..., None] * rng.normal(0, 0.12, 3)
    ground += rng.uniform(0.15, 0.85, 3)
    for _ in range(3):
        (row, column), (down, across) = rng.random(2), rng.normal(0, 0.15, 2)
        inside = (x - 1.8 * column - across * t) ** 2 + (y - row - down * t) ** 2
        shown = inside < rng.uniform(0.01, 0.06)
        ground += shown[..., None] * (rng.uniform(0, 1, 3) - ground)
    grain = rng.normal(0, rng.uniform(0, 0.03), ground.shape)
    return _bytes(255 * (ground + grain))


def cut_film(
    shot: Callable[[np.random.Generator, int], Video], rng: np.random.Generator
) -> KnownFilm:
    """Twelve shots with random transitions between them and flashes inside some."""
    kinds = rng.choice(
        ["dissolve", "fade", "cut"], SHOTS - 1, p=[DISSOLVES, FADES, 1 - DISSOLVES - FADES]
    )
    ranges = {"dissolve": DISSOLVE_FRAMES, "fade": FADE_FRAMES, "cut": (0, 0)}
    lengths = [int(rng.integers(*ranges[kind], endpoint=True)) for kind in kinds]
    pieces, shots, flashes, end = [], [], [], 0
    tail = np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)  # of the shot before, under the transition
    for n in range(SHOTS):
        before = len(tail)
        after = lengths[n] if n < SHOTS - 1 else 0
        pure = int(rng.integers(*SHOT_FRAMES, endpoint=True))
        video = shot(rng, before + pure + after)
        if rng.random() < FLASHES:
            first = before + int(rng.integers(5, pure - 9))
            last = first + int(rng.integers(1, 4))
            video[first:last] = _flash(video[first:last], rng)
            flashes.append(DetectedShot(end + first, end + last))
        if before:
            pieces.append(_mixed(tail, video[:before], kinds[n - 1]))
        pieces.append(video[before : before + pure])
        shots.append(DetectedShot(end + before, end + before + pure))
        end += before + pure
        tail = video[before + pure :]
    return KnownFilm(np.concatenate(pieces), tuple(shots), tuple(flashes))


def story_film(index: int) -> KnownFilm:
    """A film of StoryWorld, with the cuts of its story."""
    story = sample_story(0, index, WorldConfig.montage_long())
    frames = render(scene_parameters(story), story.world.height, story.world.width)
    shots = tuple(DetectedShot(shot.frames.start, shot.frames.stop) for shot in story.shots)
    return KnownFilm(frames, shots, ())


def _mixed(before: Video, after: Video, kind: str) -> Video:
    """A transition as long as both: a dissolve, or a fade to black and back."""
    part = (np.arange(1, len(before) + 1) / (len(before) + 1))[:, None, None, None]
    if kind == "dissolve":
        return _bytes((1 - part) * before + part * after)
    return _bytes(np.maximum(1 - 2 * part, 0) * before + np.maximum(2 * part - 1, 0) * after)


def _flash(video: Video, rng: np.random.Generator) -> Video:
    return _bytes(video + rng.uniform(60, 200))


def _bytes(values: np.ndarray) -> Video:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
