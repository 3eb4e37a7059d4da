"""Frames as VBench hands them to its networks (VBench at 45e79ec, vbench/utils.py).

    CLIP     shorter side to 224, bicubic; the middle 224 x 224
    ViCLIP   the same, but its frames are uint8 when they are resized: clipped and rounded again
    DINO     shorter side to 224, bilinear; nothing is cut off
    DINOv2   shorter side to 256, bicubic with antialias; the middle 224 x 224 (VBench-Long)

Resizing is linear in each axis, so it is two products with small matrices. They are torch's
(`torch.nn.functional.interpolate`, align_corners=False): a pixel of the result lies at
(i + 0.5) * scale - 0.5 of the source, and pixels beyond the border repeat it.
"""

import functools
import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.scorers.vit import ViT
from causalcine_jax.utils.arrays import AnyArray

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CUBIC, ANTIALIAS_CUBIC = -0.75, -0.5  # torch's coefficients of the cubic kernel
OFFSET = 0.1  # DINO adds it to the patches of a side before it computes the scale


@dataclass(frozen=True)
class Preprocessing:
    """How a network gets its frames.

    side       pixels of the shorter side after resizing
    crop       pixels of the middle square that is kept; 0 keeps all
    cubic      bicubic, else bilinear
    antialias  the kernel grows with the scale, so that no pixel of the source is skipped
    rounded    clipped to 0..255 and rounded after resizing, as torchvision does to uint8
    statistics mean and standard deviation per channel, of pixels in 0..1
    """

    side: int
    crop: int
    cubic: bool
    antialias: bool
    rounded: bool
    statistics: tuple[tuple[float, ...], tuple[float, ...]]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: the longer side is rounded down, as torchvision's."""
        if height <= width:
            return self.side, int(self.side * width / height)
        return int(self.side * height / width), self.side


CLIP = Preprocessing(224, 224, True, False, False, OPENAI)
VICLIP = Preprocessing(224, 224, True, False, True, OPENAI)
DINO = Preprocessing(224, 0, False, False, False, IMAGENET)
DINOV2 = Preprocessing(256, 224, True, True, False, IMAGENET)


@partial(jax.jit, static_argnums=1)
def pixels_of(frames: UInt8[AnyArray, "n h w 3"], how: Preprocessing) -> Float[Array, "n y x 3"]:
    """Resized, cropped and normalised frames, in float32. Compiled once per size of frames."""
    _, height, width, _ = frames.shape
    rows, columns = how.size(height, width)
    down = _crop(resize_matrix(height, rows, how.cubic, how.antialias), how.crop)
    across = _crop(resize_matrix(width, columns, how.cubic, how.antialias), how.crop)
    product = partial(jnp.einsum, precision="highest")
    x = product("yh,nhwc->nywc", down, jnp.asarray(frames, jnp.float32))
    x = product("xw,nywc->nyxc", across, x)
    if how.rounded:
        x = jnp.round(jnp.clip(x, 0, 255))
    mean, std = (jnp.asarray(values, jnp.float32) for values in how.statistics)
    return (x / 255 - mean) / std


def _crop(matrix: np.ndarray, size: int) -> np.ndarray:
    """The rows of the middle `size` pixels; 0 keeps all. The first is rounded as torchvision's."""
    start = round((len(matrix) - size) / 2)
    return matrix[start : start + size] if size else matrix


@functools.lru_cache(maxsize=64)
def resize_matrix(
    before: int, after: int, cubic: bool, antialias: bool = False, scale: float = 0.0
) -> Float[np.ndarray, "after before"]:
    """The matrix that resizes an axis of `before` pixels to `after`.

    `scale` is source pixels per pixel of the result, if not before / after. Computed in float32, as
    torch does: its rounding moves a pixel's source by more than the tolerance of our tests.
    """
    step = np.float32(scale or before / after)
    centre = (np.arange(after, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    if antialias:
        return _antialiased(before, centre, np.maximum(step, np.float32(1)), cubic)
    if not cubic:
        centre = np.maximum(centre, 0)
    first = np.floor(centre).astype(int)
    kernel = partial(_cubic, a=CUBIC) if cubic else _linear
    matrix = np.zeros((after, before), np.float32)
    for tap in range(-1, 3) if cubic else range(2):
        at = np.clip(first + tap, 0, before - 1)
        np.add.at(matrix, (np.arange(after), at), kernel(centre - (first + tap)))
    return matrix


def _antialiased(
    before: int, centre: np.ndarray, scale: np.float32, cubic: bool
) -> Float[np.ndarray, "after before"]:
    """The kernel is `scale` times as wide; weights beyond the border are dropped."""
    kernel = partial(_cubic, a=ANTIALIAS_CUBIC) if cubic else _linear
    support = (2 if cubic else 1) * scale
    matrix = np.zeros((len(centre), before), np.float32)
    for row, middle in enumerate(centre + np.float32(0.5)):
        start = max(int(middle - support + 0.5), 0)
        stop = min(int(middle + support + 0.5), before)
        distance = (np.arange(start, stop, dtype=np.float32) + np.float32(0.5) - middle) / scale
        weights = kernel(distance)
        matrix[row, start:stop] = weights / weights.sum()
    return matrix


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(distance))


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def positions_for(
    net: ViT, height: int, width: int, offset: float = OFFSET
) -> Float[np.ndarray, "n d"] | None:
    """The positions of a picture of this size in pixels; None where they are the trained ones.

    They are resized bicubically with DINO's own scale: the patches of a side plus `offset`, over
    those that it was trained for (`interpolate_pos_encoding` of DINO and DINOv2).
    """
    trained = np.asarray(net.positions[...], np.float32)
    side = math.isqrt(len(trained) - 1)
    rows, columns = height // net.sizes.patch, width // net.sizes.patch
    if (rows, columns) == (side, side):
        return None
    grid = trained[1:].reshape(side, side, -1)
    down, across = (
        resize_matrix(side, count, True, scale=side / (count + offset)) for count in (rows, columns)
    )
    resized = np.einsum("yh,xw,hwd->yxd", down, across, grid, optimize=True)
    return np.concatenate([trained[:1], resized.reshape(rows * columns, -1)])
