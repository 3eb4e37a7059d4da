"""The judge: a small network that reads StoryWorld frames, true or generated.

    frames uint8 -> shrunk to 80x48 -> convolutions -> a 10x6 map -> `look`
        in every cell: is a head here? of which species, colour and accessory? features of its pose
        of the whole map: place, time of day, shot size
    `act`: four looks at a character, 3 frames apart -> its action

reading.py turns the maps into answers about a character. The network was trained on rendered
true films only, blurred and distorted (experiments/judge).
It was never trained on a generated frame.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float

from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    COLOURS,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
)
from causalcine_jax.utils.arrays import AnyArray

HEIGHT, WIDTH = 48, 80
CLIP_FRAMES, CLIP_STRIDE = 4, 3  # what the action head looks at: 10 frames of film
CLIP_SPAN = (CLIP_FRAMES - 1) * CLIP_STRIDE + 1
WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"

# A character's attributes, then the whole frame's; classes are in the order of world.py's tables.
OF_CHARACTER = {"colour": tuple(COLOURS), "accessory": tuple(ACCESSORIES)}
OF_FRAME = {"place": PLACES, "time": TIMES, "size": SIZES}
CLASSES = {"species": SPECIES, **OF_CHARACTER, **OF_FRAME, "action": ACTIONS}

GRID = (HEIGHT // 8, WIDTH // 8)  # cells of the map, rows and columns
# (x, y) from the middle of the frame, in frame heights, row by row.
CELL_CENTRES = np.stack(
    np.meshgrid(
        (np.arange(GRID[1]) + 0.5 - GRID[1] / 2) / GRID[0],
        (np.arange(GRID[0]) + 0.5 - GRID[0] / 2) / GRID[0],
    ),
    axis=-1,
).reshape(-1, 2)

_STAGES = (
    ("stem", 12, 32),
    ("stage1", 32, 56),
    ("stage1b", 56, 56),
    ("stage2", 56, 96),
    ("stage2b", 96, 96),
)
_WIDTH = _STAGES[-1][-1]
_MOTION = 32  # features per look that `act` compares: the pose and learned ones
_OF_CELL = {
    "figure": 1,
    "species": len(SPECIES),
    **{name: len(classes) for name, classes in OF_CHARACTER.items()},
    "motion": _MOTION,
}

Params = dict[str, Array]


def init_params(key: Array) -> Params:
    """Draws random weights."""
    shapes: dict[str, tuple[int, ...]] = {name: (3, 3, i, o) for name, i, o in _STAGES}
    shapes |= {name: (_WIDTH, outputs) for name, outputs in _OF_CELL.items()}
    shapes |= {name: (2 * _WIDTH, len(classes)) for name, classes in OF_FRAME.items()}
    shapes |= {"action_hidden": (CLIP_FRAMES * (_MOTION + 2), 96), "action": (96, len(ACTIONS))}
    params = {}
    for name, own in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
        shape = shapes[name]
        params[f"{name}.weight"] = jax.random.normal(own, shape) * np.prod(shape[:-1]) ** -0.5
        params[f"{name}.bias"] = jnp.zeros(shape[-1])
    params["figure.bias"] -= 4.0  # most cells hold no head
    return params


def look(params: Params, frames: Float[Array, "n 48 80 3"]) -> dict[str, Array]:
    """Returns logits of one look at each frame (values 0..1).

    figure: [n, cells]. species, colour, accessory: [n, cells, classes].
    motion: [n, cells, features]. place, time, size: [n, classes].
    """
    # Folding 2x2 pixels first makes the stem cheapest, also in its gradient.
    x = rearrange((frames - 0.5) * 4, "n (h r) (w s) c -> n h w (r s c)", r=2, s=2)
    x = _halve(_conv(params, "stem", x))
    x = _conv(params, "stage1", x)
    x = _halve(x + _conv(params, "stage1b", x))
    x = _conv(params, "stage2", x)
    x = x + _conv(params, "stage2b", x)
    cells = rearrange(x, "n h w d -> n (h w) d")
    out = {name: _linear(params, name, cells) for name in _OF_CELL}
    out["figure"] = out["figure"][..., 0]
    whole = jnp.concatenate([cells.mean(axis=1), cells.max(axis=1)], axis=-1)
    return out | {name: _linear(params, name, whole) for name in OF_FRAME}


def act(params: Params, motion: Float[AnyArray, "*n looks features"]) -> Float[Array, "*n actions"]:
    """Returns logits of a character's action in a clip.

    `motion`: its motion features and position in each of CLIP_FRAMES looks.
    """
    clip = jnp.asarray(motion).reshape(*motion.shape[:-2], -1)
    return _linear(params, "action", jax.nn.relu(_linear(params, "action_hidden", clip)))


def _conv(params: Params, name: str, x: Array) -> Array:
    """Applies convolution, RMS norm over the channels, and relu."""
    y = jax.lax.conv_general_dilated(
        x, params[f"{name}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = y + params[f"{name}.bias"]
    return jax.nn.relu(y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-2))


def _linear(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _halve(x: Array) -> Array:
    return reduce(x, "n (h r) (w s) c -> n h w c", "max", r=2, s=2)
