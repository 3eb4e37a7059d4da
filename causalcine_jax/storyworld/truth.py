"""What a story's film shows, frame by frame: cast, boxes, and the caption's labels."""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.storyworld.scene import scene_parameters
from causalcine_jax.storyworld.story import WorldStory
from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    CAMERAS,
    COLOURS,
    MAX_ON_SCREEN,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
)


@dataclass(frozen=True)
class GroundTruth:
    """Labels per video frame. Integers index the tables of world.py in order; -1 is no character.

    Axes: T video frames, 2 entries as in WorldShot.cast.
    Boxes are (x0, y0, x1, y1) in pixels, not clipped to the frame.
    """

    shot: np.ndarray  # int32 [T]
    chunk: np.ndarray  # int32 [T]
    cut: np.ndarray  # bool [T], true on the first frame of every shot but the first
    place: np.ndarray  # int32 [T]
    time: np.ndarray  # int32 [T]
    size: np.ndarray  # int32 [T]
    camera: np.ndarray  # int32 [T]
    character: np.ndarray  # int32 [T, 2], index into WorldStory.cast
    action: np.ndarray  # int32 [T, 2]
    species: np.ndarray  # int32 [T, 2]
    colour: np.ndarray  # int32 [T, 2]
    accessory: np.ndarray  # int32 [T, 2]
    figure_box: np.ndarray  # float32 [T, 2, 4]
    head_box: np.ndarray  # float32 [T, 2, 4]
    body_box: np.ndarray  # float32 [T, 2, 4]
    accessory_box: np.ndarray  # float32 [T, 2, 4]


def ground_truth(story: WorldStory, params: dict[str, np.ndarray] | None = None) -> GroundTruth:
    """Returns the truth of every frame.

    Args:
      story: the story.
      params: its scene_parameters, if the caller has them already.
    """
    params = scene_parameters(story) if params is None else params
    lengths = [len(shot.frames) for shot in story.shots]
    chunks = story.world.chunks

    def per_frame(values) -> np.ndarray:
        return np.repeat(np.asarray(values, np.int32), lengths, axis=0)

    def per_place(value_of) -> np.ndarray:
        rows = np.full((len(story.shots), MAX_ON_SCREEN), -1, np.int32)
        for row, shot in zip(rows, story.shots, strict=True):
            for position in range(len(shot.cast)):
                row[position] = value_of(shot, position)
        return per_frame(rows)

    def trait(name: str, table) -> np.ndarray:
        return per_place(
            lambda shot, i: tuple(table).index(getattr(story.cast[shot.cast[i]], name))
        )

    cut = np.zeros(story.world.frames, bool)
    cut[[shot.frames.start for shot in story.shots[1:]]] = True
    boxes = {
        f"{key}_box": params[key] * story.world.height
        for key in ("figure", "head", "body", "accessory")
    }
    return GroundTruth(
        shot=per_frame(range(len(story.shots))),
        chunk=np.repeat(
            np.arange(chunks, dtype=np.int32),
            np.diff([first_frame_of_chunk(c) for c in range(chunks + 1)]),
        ),
        cut=cut,
        place=per_frame([PLACES.index(shot.place) for shot in story.shots]),
        time=per_frame([TIMES.index(shot.time) for shot in story.shots]),
        size=per_frame([SIZES.index(shot.size) for shot in story.shots]),
        camera=per_frame([CAMERAS.index(shot.camera) for shot in story.shots]),
        character=per_place(lambda shot, i: shot.cast[i]),
        action=per_place(lambda shot, i: ACTIONS.index(shot.actions[i])),
        species=trait("species", SPECIES),
        colour=trait("colour", COLOURS),
        accessory=trait("accessory", ACCESSORIES),
        **boxes,
    )


def box_masks(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a mask [..., height, width], true for pixels whose centre is in a box [..., 4]."""
    x0, y0, x1, y1 = (boxes[..., i, None, None] for i in range(4))
    ys, xs = (np.arange(height) + 0.5)[:, None], (np.arange(width) + 0.5)[None, :]
    return (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)


def cast_per_chunk(story: WorldStory) -> np.ndarray:
    """Returns bool [chunks, characters]: whether a chunk shows a character."""
    seen = np.zeros((story.world.chunks, len(story.cast)), bool)
    for shot in story.shots:
        seen[shot.start_chunk : shot.end_chunk, list(shot.cast)] = True
    return seen
