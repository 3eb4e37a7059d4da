"""Clips of true films with their labels, which the judge learns from.

    stories of a separate seed -> a few clips of every shot -> rendered, as arrays for one file

A clip is CLIP_FRAMES frames, CLIP_STRIDE apart, of one shot of the base world.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import zoom

from causalcine_jax.evaluation.storyworld.config import TRAINING_SEED
from causalcine_jax.evaluation.storyworld.judge import (
    ACTIONS,
    CLASSES,
    CLIP_FRAMES,
    CLIP_SPAN,
    CLIP_STRIDE,
    GRID,
    HEIGHT,
    OF_CHARACTER,
    OF_FRAME,
    SPECIES,
    WIDTH,
)
from causalcine_jax.storyworld import (
    WorldConfig,
    WorldShot,
    WorldStory,
    render,
    sample_story,
    scene_parameters,
)
from causalcine_jax.storyworld.actions import pose
from causalcine_jax.utils.progress import progress_bar

LABELS = (*OF_CHARACTER, *OF_FRAME, "action", "head", "pose")
CLIPS_PER_SHOT = 3
MELTED = 8.0  # pixels, the typical way of a pixel of a smear: the size of a head in a medium shot

# Parts of a pose (storyworld.characters.Pose), and the typical size that divides each.
POSE = {
    "dx": 0.1,
    "lean": 0.2,
    "head_x": 0.05,
    "head_tilt": 0.2,
    "gaze": 1.0,
    "left_arm": 1.0,
    "right_arm": 1.0,
    "left_leg": 0.6,
    "right_leg": 0.6,
    "dy": 0.2,
    "sink": 0.13,
    "asleep": 1.0,
}
_MIRROR_SIGN = np.array([-1, -1, -1, -1, -1, 1, 1, -1, -1, 1, 1, 1], np.float32)
_MIRROR_ORDER = [0, 1, 2, 3, 4, 6, 5, 8, 7, 9, 10, 11]


def sample_clips(clips: int) -> dict[str, np.ndarray]:
    """Samples clips from the first stories of TRAINING_SEED.

    Returns:
      frames: uint8 [n, CLIP_FRAMES, 48, 80, 3].
      place, time, size: int32 [n].
      colour, accessory, action: int32 [n, species], -1 if the species is not in the shot.
      head: int32 [n, CLIP_FRAMES, species], the cell that holds its head, else -1.
      pose: float32 [n, CLIP_FRAMES, species, len(POSE)].
    """
    world, rng = WorldConfig.base(), np.random.default_rng([TRAINING_SEED, 0])
    shapes: list[np.ndarray] = []
    truth: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
    index = 0
    while len(shapes) < clips:
        story = sample_story(TRAINING_SEED, index, world)
        drawn = scene_parameters(story)
        index += 1
        for shot in story.shots:
            for _ in range(
                min(CLIPS_PER_SHOT, shot.chunks) if len(shot.frames) >= CLIP_SPAN else 0
            ):
                looks = int(rng.integers(len(shot.frames) - CLIP_SPAN + 1)) + np.arange(
                    0, CLIP_SPAN, CLIP_STRIDE
                )
                shapes.append(drawn["shapes"][shot.frames.start + looks])
                heads = drawn["head"][shot.frames.start + looks]
                labels = _classes(story, shot) | {
                    "head": _head_cells(story, shot, heads),
                    "pose": _poses(story, shot, looks),
                }
                for name, value in labels.items():
                    truth[name].append(value)
    frames = _render(np.concatenate(shapes[:clips]))
    return {"frames": frames.reshape(clips, CLIP_FRAMES, *frames.shape[1:])} | {
        k: np.asarray(v[:clips]) for k, v in truth.items()
    }


def mirrored(clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the clips mirrored: left and right of every character swap, nothing else changes."""
    head = clips["head"]
    column = head % GRID[1]
    return clips | {
        "frames": clips["frames"][:, :, :, ::-1],
        "head": np.where(head >= 0, head - column + GRID[1] - 1 - column, -1),
        "pose": clips["pose"][..., _MIRROR_ORDER] * _MIRROR_SIGN,
    }


def with_nonsense(rng: np.random.Generator, clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes the first clip unreadable: coloured noise, its own pieces shuffled, or melted.

    The judge thereby learns to find no character.
    """
    clips = {name: values.copy() for name, values in clips.items()}
    frames = clips["frames"][0]
    kind = rng.choice(["noise", "shuffled", "melted"])
    if kind == "melted":
        clips["frames"][0] = melted(rng, frames)
    elif kind == "noise":
        size = int(rng.choice([1, 2, 4, 8]))
        noise = rng.integers(
            0, 256, (len(frames), HEIGHT // size, WIDTH // size, 3), dtype=np.uint8
        )
        clips["frames"][0] = noise.repeat(size, axis=1).repeat(size, axis=2)
    else:
        pieces = rearrange(frames, "t (h r) (w s) c -> (h w) t r s c", h=GRID[0], w=GRID[1])
        clips["frames"][0] = rearrange(
            rng.permutation(pieces), "(h w) t r s c -> t (h r) (w s) c", h=GRID[0]
        )
    for name in LABELS:
        clips[name][0] = 0 if name == "pose" else -1
    return clips


def melted(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "t h w 3"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Takes each pixel from a random place about it, near ones from near places: a smear."""
    way = rng.normal(scale=MELTED, size=(2, *GRID))
    way = zoom(way, (1, HEIGHT // GRID[0], WIDTH // GRID[1]), order=3)
    rows, columns = np.rint(np.indices((HEIGHT, WIDTH)) + way).astype(int)
    return frames[:, rows.clip(0, HEIGHT - 1), columns.clip(0, WIDTH - 1)]


def _render(shapes: Float[np.ndarray, "n k fields"]) -> np.ndarray:
    block = 32 * CLIP_FRAMES
    paint = jax.jit(functools.partial(render, height=HEIGHT, width=WIDTH, xp=jnp))
    padded = np.concatenate([shapes, np.repeat(shapes[-1:], -len(shapes) % block, axis=0)])
    starts = range(0, len(padded), block)
    blocks = [
        np.asarray(paint({"shapes": padded[i : i + block]}))
        for i in progress_bar(len(starts), "block", "render", over=starts)
    ]
    return np.concatenate(blocks)[: len(shapes)]


def _classes(story: WorldStory, shot: WorldShot) -> dict[str, np.ndarray]:
    """Returns a shot's classes as indices into the world's tables; -1 for an absent species."""
    labels = {
        name: np.asarray(CLASSES[name].index(getattr(shot, name)), np.int32) for name in OF_FRAME
    }
    labels |= {name: np.full(len(SPECIES), -1, np.int32) for name in (*OF_CHARACTER, "action")}
    for who, action in zip(shot.cast, shot.actions, strict=True):
        character = story.cast[who]
        species = SPECIES.index(character.species)
        for name in OF_CHARACTER:
            labels[name][species] = CLASSES[name].index(getattr(character, name))
        labels["action"][species] = ACTIONS.index(action)
    return labels


def _head_cells(
    story: WorldStory, shot: WorldShot, boxes: Float[np.ndarray, "t places 4"]
) -> Int[np.ndarray, "t species"]:
    """Returns the map's cell of each species' head; a head above the frame is in the top row."""
    cells = np.full((len(boxes), len(SPECIES)), -1, np.int32)
    for position, who in enumerate(shot.cast):
        x, y = boxes[:, position, [0, 2]].mean(axis=1), boxes[:, position, [1, 3]].mean(axis=1)
        row, column = (
            np.clip((v * GRID[0]).astype(int), 0, size - 1)
            for v, size in zip((y, x), GRID, strict=True)
        )
        cells[:, SPECIES.index(story.cast[who].species)] = row * GRID[1] + column
    return cells


def _poses(
    story: WorldStory, shot: WorldShot, looks: Int[np.ndarray, " t"]
) -> Float[np.ndarray, "t species pose"]:
    """Returns each species' pose at the shot's frames `looks`; zero for an absent species.

    Two characters face each other unless they walk.
    """
    poses = np.zeros((len(looks), len(SPECIES), len(POSE)), np.float32)
    for position, (who, action) in enumerate(zip(shot.cast, shot.actions, strict=True)):
        facing = shot.facing if len(shot.cast) == 1 or action == "walk" else (1.0, -1.0)[position]
        held = pose(action, looks, facing, shot.size)
        for part, (name, size) in enumerate(POSE.items()):
            poses[:, SPECIES.index(story.cast[who].species), part] = (
                np.asarray(getattr(held, name), np.float32) / size
            )
    return poses
