"""Turns a story into the renderer's input: a display list and characters' boxes per frame.

A shot is built for all of its frames at once: camera curves, the place, then characters
from left to right.
"""

import numpy as np

from causalcine_jax.clock import FPS
from causalcine_jax.storyworld.accessories import BOXES, ON_TRUNK
from causalcine_jax.storyworld.actions import pose
from causalcine_jax.storyworld.characters import HEAD_RADIUS, draw_character
from causalcine_jax.storyworld.places import CENTRE, LIGHTS, draw_place
from causalcine_jax.storyworld.shapes import DisplayList, Pen
from causalcine_jax.storyworld.story import WorldShot, WorldStory
from causalcine_jax.storyworld.world import MAX_ON_SCREEN

FOCUS = (CENTRE, 0.60)  # the point that stays in place while the camera pushes in or pulls out
DEPTHS = (0.25, 0.6, 1.0)  # how much of the camera's move reaches the far, mid and near scenery
SCENERY_SCALE = {"wide": 1.0, "medium": 1.12, "close-up": 1.3}
# Height of a character and where its feet stand, both in frame heights.
FRAMING = {"wide": (0.50, 0.89), "medium": (0.72, 0.97), "close-up": (1.16, 1.42)}
PAIR_FRAMING = {"wide": (0.48, 0.89), "medium": (0.64, 0.96)}


def scene_parameters(story: WorldStory) -> dict[str, np.ndarray]:
    """Returns a story's shapes and its characters' boxes, with leading axis T.

    Returns:
      "shapes": float32 [T, K, fields], the display list.
      "figure", "head", "body", "accessory": float32 [T, 2, 4] boxes (x0, y0, x1, y1) in frame
      heights, one per entry of WorldShot.cast, zero where it is empty. The figure's box covers all
      but ears, tail and arms.
    """
    parts = [_shot(story, shot) for shot in story.shots]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def box_masks(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a mask [..., height, width], true for pixels whose centre is in a box [..., 4]."""
    x0, y0, x1, y1 = (boxes[..., i, None, None] for i in range(4))
    ys, xs = (np.arange(height) + 0.5)[:, None], (np.arange(width) + 0.5)[None, :]
    return (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)


def _shot(story: WorldStory, shot: WorldShot) -> dict[str, np.ndarray]:
    frames = np.arange(len(shot.frames), dtype=np.float64)
    zoom, camera_x, walk_x = _camera(shot, frames)
    target = DisplayList(len(frames))
    draw_place(
        _scenery_pens(target, shot, zoom, camera_x),
        Pen(target),
        shot.place,
        shot.time,
        story.layouts[shot.place],
    )
    boxes = {
        key: np.zeros((len(frames), MAX_ON_SCREEN, 4), np.float32)
        for key in ("figure", "head", "body", "accessory")
    }
    for position, (who, action) in enumerate(zip(shot.cast, shot.actions, strict=True)):
        character = story.cast[who]
        scale, x, y, facing = _standing(shot, position)
        across = x + (walk_x if action == "walk" else 0.0) - camera_x
        pen = Pen(
            target,
            FOCUS[0] + (across - FOCUS[0]) * zoom,
            FOCUS[1] + (y - FOCUS[1]) * zoom,
            scale * zoom,
            scale * zoom,
            tint=LIGHTS[shot.time].figures,
        )
        trunk, head, crest = draw_character(
            pen,
            character.species,
            character.colour,
            character.accessory,
            pose(action, frames, facing, shot.size),
        )
        boxes["head"][:, position] = _box(head, (-HEAD_RADIUS[0], -HEAD_RADIUS[1], *HEAD_RADIUS))
        boxes["body"][:, position] = _box(trunk, (-0.22, -0.52, 0.22, -0.06))
        boxes["accessory"][:, position] = _box(
            trunk if character.accessory in ON_TRUNK else crest, BOXES[character.accessory]
        )
        parts = np.stack(
            [boxes[key][:, position] for key in ("head", "body", "accessory")]
            + [_box(pen.child(0, 0), (0.0, -0.1, 0.0, 0.0))]
        )
        boxes["figure"][:, position] = np.concatenate(
            [parts[..., :2].min(0), parts[..., 2:].max(0)], axis=-1
        )
    return {"shapes": target.array(), **boxes}


def _camera(shot: WorldShot, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns zoom, the camera's x and a walker's shift from the middle of its walk, per frame.

    All are symmetric about the middle of the shot. In a close-up the camera goes with a
    walker, whatever the caption says of the camera. This stays, because each (seed, index) must
    keep its film and caption.
    """
    seconds = len(frames) / FPS
    along = (frames + 0.5) / len(frames) - 0.5
    reach = min(0.16, 0.05 * seconds + 0.04)
    zoom = np.ones_like(along)
    if shot.camera in ("push in", "pull out"):
        zoom = 1.0 + (2.0 if shot.camera == "push in" else -2.0) * reach * along
    walk = shot.facing * along * min(0.16 * seconds, 0.56)
    follows = "walk" in shot.actions and (shot.camera == "pan" or shot.size == "close-up")
    camera_x = walk if follows else np.zeros_like(along)
    if shot.camera == "pan" and not follows:
        camera_x = shot.facing * along * min(0.12 * seconds, 0.36)
    return zoom, camera_x, walk


def _scenery_pens(
    target: DisplayList, shot: WorldShot, zoom: np.ndarray, camera_x: np.ndarray
) -> tuple[Pen, Pen, Pen]:
    def pen(depth: float) -> Pen:
        scale = SCENERY_SCALE[shot.size] * (1.0 + (zoom - 1.0) * depth)
        return Pen(
            target,
            FOCUS[0] * (1 - scale) - camera_x * depth * scale,
            FOCUS[1] * (1 - scale),
            scale,
            scale,
        )

    far, middle, near = (pen(depth) for depth in DEPTHS)
    return far, middle, near


def _standing(shot: WorldShot, position: int) -> tuple[float, float, float, float]:
    """Returns height, x, y of the feet and facing of the character at `position` of a shot."""
    if len(shot.cast) == 1:
        scale, y = FRAMING[shot.size]
        return (
            scale,
            CENTRE + shot.offset * {"wide": 1.0, "medium": 0.7, "close-up": 0.3}[shot.size],
            y,
            shot.facing,
        )
    scale, y = PAIR_FRAMING[shot.size]
    side = -1.0 if position == 0 else 1.0
    return (
        scale,
        CENTRE + side * (0.36 if shot.size == "wide" else 0.42),
        y,
        -side if shot.actions[position] != "walk" else shot.facing,
    )


def _box(pen: Pen, box: tuple[float, float, float, float]) -> np.ndarray:
    """Returns the axis-aligned screen box [T, 4] around a box in the pen's frame of reference."""
    corners = [pen.point(x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs = np.stack(np.broadcast_arrays(*[c[0] for c in corners]))
    ys = np.stack(np.broadcast_arrays(*[c[1] for c in corners]))
    return np.stack([xs.min(0), ys.min(0), xs.max(0), ys.max(0)], axis=-1)
