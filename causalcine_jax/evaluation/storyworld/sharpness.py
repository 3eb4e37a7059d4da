"""How sharp a film's characters are: edge energy about them, film over the true film of the story.

    the judge's cell of a head + the figure's place about its head (the story) -> box -> edge energy

1 is as sharp as the true film. Blur has less. A mosaic of wrong parts has edges too, so read it
beside consistency and recall.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from causalcine_jax.evaluation.storyworld.judge import CELL_CENTRES
from causalcine_jax.evaluation.storyworld.reading import Judge, Reading, of_character, sought
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.storyworld import WorldShot, WorldStory, box_masks, scene_parameters


@dataclass(frozen=True)
class Edges:
    """A film's edge energy per pixel, and the judge's reading of it."""

    energy: Float[np.ndarray, "t h w"]
    reading: Reading

    @classmethod
    def of(cls, video: UInt8[np.ndarray, "t h w 3"], reading: Reading) -> "Edges":
        return cls(edge_energy(video), reading)


def edge_energy(film: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w"]:
    """Sums the absolute differences to the pixels below and to the right.

    The last row and column lack a neighbour, which counts as no difference.
    """
    pixels = film.astype(np.float32)
    down = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).sum(-1)
    right = np.abs(np.diff(pixels, axis=2, append=pixels[:, :, -1:])).sum(-1)
    return down + right


def sharpness(story: WorldStory, film: Edges, judge: Judge) -> list[list[float]]:
    """For every shot the sharpness of each of its characters; 0 for one that is not found."""
    video = true_film(story)
    truth, boxes = Edges.of(video, judge.read(video)), scene_parameters(story)
    return [
        [_ratio(story, shot, position, (film, truth), boxes) for position in range(len(shot.cast))]
        for shot in story.shots
    ]


def _ratio(
    story: WorldStory,
    shot: WorldShot,
    position: int,
    films: tuple[Edges, Edges],
    boxes: dict[str, np.ndarray],
) -> float:
    frames = shot.frames
    head, figure = (
        boxes[name][frames.start : frames.stop, position] for name in ("head", "figure")
    )
    middle = (head[:, :2] + head[:, 2:]) / 2
    about = np.mean(figure - np.tile(middle, 2), axis=0)  # in frame heights, of the whole shot
    who = sought(story, shot, shot.cast[position])
    found = []
    for each in films:
        reading = each.reading.frames(frames)
        if of_character(reading, who) is None:
            return 0.0
        _, height, width = each.energy.shape
        centre = CELL_CENTRES[who.cells(reading).argmax(axis=1)] + (width / height / 2, 0.5)
        inside = box_masks((np.tile(centre, 2) + about) * height, height, width)
        found.append(float(each.energy[frames.start : frames.stop][inside].sum()))
    return found[0] / found[1] if found[1] else 0.0
