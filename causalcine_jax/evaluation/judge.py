"""The judge: a small network that says what a StoryWorld frame shows. The evaluation reads every film through it, true or generated.

    frames uint8 -> shrunk to 48x80 -> four stages of convolutions -> a 6x10 map of features
        -> per species: where its head is (attention over the map), whether it is there, and there its colour and accessory
        -> of the whole map: place, time of day, shot size
    four looks, 3 frames apart -> per species: action

Species ask, because a story never casts two of one kind: "is the fox there, and what colour is it?" has one answer even when two
characters share a frame. The network learned from rendered true films only, blurred and distorted (judge_training.py); it has
never seen a generated frame. Probabilities are per frame; `Reading` averages them over the frames of a shot.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float

from causalcine_jax.data.storyworld.world import ACCESSORIES, ACTIONS, COLOURS, PLACES, SIZES, SPECIES, TIMES

HEIGHT, WIDTH = 48, 80
CLIP_FRAMES, CLIP_STRIDE = 4, 3  # what the action head looks at: 10 frames of film
CLIP_SPAN = (CLIP_FRAMES - 1) * CLIP_STRIDE + 1
WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"

# Attributes of a character, then of the whole frame, with their classes in the order of the world's tables.
OF_CHARACTER = {"colour": tuple(COLOURS), "accessory": tuple(ACCESSORIES)}
OF_FRAME = {"place": PLACES, "time": TIMES, "size": SIZES}
CLASSES = {**OF_CHARACTER, **OF_FRAME, "action": ACTIONS}

_STAGES = (("stem", 3, 12, 24), ("stage1", 3, 24, 48), ("stage1b", 3, 48, 48), ("stage2", 3, 48, 96), ("stage2b", 3, 96, 96))
GRID = (HEIGHT // 8, WIDTH // 8)  # cells of the feature map, rows and columns
CENTRE = WIDTH / HEIGHT / 2
# (x, y) in frame heights, row by row, as the world's boxes are given.
CELL_CENTRES = np.stack(np.meshgrid((np.arange(GRID[1]) + 0.5) / GRID[0], (np.arange(GRID[0]) + 0.5) / GRID[0]), axis=-1).reshape(-1, 2)
_MOTION = 24  # features per frame that the action head compares over time

Params = dict[str, Array]


def init_params(key: Array) -> Params:
    """He-initialised weights."""
    shapes = {name: (size, size, i, o) for name, size, i, o in _STAGES}
    width = _STAGES[-1][-1]
    shapes["where"] = (width, len(SPECIES))
    shapes |= {name: (width, len(classes)) for name, classes in OF_CHARACTER.items()}
    shapes |= {name: (2 * width, len(classes)) for name, classes in OF_FRAME.items()}
    shapes["motion"] = (width, _MOTION)
    shapes["action_hidden"] = (CLIP_FRAMES * (_MOTION + 2), 64)
    shapes["action"] = (64, len(ACTIONS))
    params = {}
    for name, own in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
        shape = shapes[name]
        gain = 2.0 if len(shape) == 4 else 1.0  # convolutions are followed by relu
        params[f"{name}.weight"] = jax.random.normal(own, shape) * (gain / np.prod(shape[:-1])) ** 0.5
        params[f"{name}.bias"] = jnp.zeros(shape[-1])
    params["where.bias"] -= 4.0  # most cells hold nobody
    return params


def look(params: Params, frames: Float[Array, "n 48 80 3"]) -> dict[str, Array]:
    """Logits of one look at each frame (values 0..1), and the features that `act` compares over time.

    where [n, cells, species]; visible [n, species]; colour, accessory [n, species, classes]; place, time, size [n, classes]; motion [n, species, features].
    """
    x = (frames - 0.5) * 4
    # 2x2 pixels per cell from the start: the cheapest stem, also in its gradient.
    x = rearrange(x, "n (h r) (w s) c -> n h w (r s c)", r=2, s=2)
    x = _halve(jax.nn.relu(_conv(params, "stem", x)))
    x = jax.nn.relu(_conv(params, "stage1", x))
    x = _halve(x + jax.nn.relu(_conv(params, "stage1b", x)))
    x = jax.nn.relu(_conv(params, "stage2", x))
    x = x + jax.nn.relu(_conv(params, "stage2b", x))
    cells = rearrange(x, "n h w d -> n (h w) d")

    where = _linear(params, "where", cells)
    weight = jax.nn.softmax(where, axis=1)
    seen = jnp.einsum("nks,nkd->nsd", weight, cells)
    out = {"where": where, "visible": where.max(axis=1)}
    for name in OF_CHARACTER:
        out[name] = _linear(params, name, seen)
    whole = jnp.concatenate([cells.mean(axis=1), cells.max(axis=1)], axis=-1)
    for name in OF_FRAME:
        out[name] = _linear(params, name, whole)
    # Where the character's head is, in frame heights about the middle: jumping and dancing are changes of this.
    place = jnp.einsum("nks,kc->nsc", weight, jnp.asarray(CELL_CENTRES - (CENTRE, 0.5), x.dtype))
    out["motion"] = jnp.concatenate([_linear(params, "motion", seen), 4 * place], axis=-1)
    return out


def act(params: Params, motion: Float[Array, "n t s m"]) -> Float[Array, "n s actions"]:
    """Logits of each species' action from the `motion` of the clip's looks."""
    clip = jnp.moveaxis(motion, 1, 2).reshape(motion.shape[0], motion.shape[2], -1)
    return _linear(params, "action", jax.nn.relu(_linear(params, "action_hidden", clip)))


def _conv(params: Params, name: str, x: Array) -> Array:
    y = jax.lax.conv_general_dilated(x, params[f"{name}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + params[f"{name}.bias"]


def _linear(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _halve(x: Array) -> Array:
    return reduce(x, "n (h r) (w s) c -> n h w c", "max", r=2, s=2)
