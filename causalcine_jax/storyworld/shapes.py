"""Builds a display list: a pen has a position, scale and tilt, and adds shapes.

A shape's numbers may be scalars or arrays [T], one value per frame of a shot.
Pens nest: the camera's pen has a character's as child, and that has the head's.
Moving one moves all of its children.
"""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.storyworld.render import FIELDS
from causalcine_jax.storyworld.world import RGB

MAX_SHAPES = 80
OUTLINE = 0.0125  # frame heights at scale 1; about half a pixel at 48 rows


class DisplayList:
    """Shapes of `frames` frames, back to front."""

    def __init__(self, frames: int):
        self.frames = frames
        self.rows: list[np.ndarray] = []

    def add(self, **fields) -> None:
        row = np.empty((self.frames, len(FIELDS)), np.float32)
        for i, name in enumerate(FIELDS):
            row[:, i] = fields[name]
        self.rows.append(row)

    def array(self) -> np.ndarray:
        """Returns float32 [T, MAX_SHAPES, fields]; unused rows are transparent."""
        if len(self.rows) > MAX_SHAPES:
            raise ValueError(f"a scene has {len(self.rows)} shapes, more than {MAX_SHAPES}")
        out = np.zeros((self.frames, MAX_SHAPES, len(FIELDS)), np.float32)
        out[
            :, :, [FIELDS.index(name) for name in ("rx", "ry", "cos", "round_top", "round_bottom")]
        ] = 1.0
        for k, row in enumerate(self.rows):
            out[:, k] = row
        return out


@dataclass(frozen=True)
class Form:
    """What makes a shape more than an ellipse of one size; each number is a scalar or [T].

    angle    rotation in radians
    taper, bend, alpha, ink  as in render.FIELDS
    round    corner radius over half axes, or (top, bottom): 1 = ellipse, 0 = box
    soft     edge softness, as a fraction of the pen's vertical scale
    outline  width in units of OUTLINE; 0 for none
    """

    angle: np.ndarray | float = 0.0
    taper: float = 0.0
    bend: float = 0.0
    round: float | tuple[float, float] = 1.0
    soft: float = 0.0
    alpha: float = 1.0
    outline: float = 1.0
    ink: float = 0.4


@dataclass(frozen=True)
class Pen:
    """Draws in its own frame of reference. Angles are in radians, clockwise on the screen."""

    target: DisplayList
    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    scale_x: np.ndarray | float = 1.0
    scale_y: np.ndarray | float = 1.0
    angle: np.ndarray | float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def point(self, x, y):
        """Returns the screen position of a point in this pen's frame of reference."""
        px, py = x * self.scale_x, y * self.scale_y
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.x + c * px - s * py, self.y + s * px + c * py

    def child(self, x=0.0, y=0.0, scale_x=1.0, scale_y=1.0, angle=0.0, tint=None) -> "Pen":
        px, py = self.point(x, y)
        sign = np.sign(self.scale_x)
        return Pen(
            self.target,
            px,
            py,
            self.scale_x * scale_x,
            self.scale_y * scale_y,
            self.angle + sign * angle,
            tint or self.tint,
        )

    def shape(
        self,
        x,
        y,
        rx,
        ry,
        colour,
        bottom=None,
        **form,
    ):
        """Adds one shape.

        Args:
          x, y: centre in the pen's frame of reference.
          rx, ry: half axes.
          colour, bottom: 0..255 RGB at its top and at its bottom; one colour if `bottom` is None.
          **form: fields of Form.
        """
        drawn = Form(**form)
        px, py = self.point(x, y)
        sign = np.sign(self.scale_x)
        turn = self.angle + sign * drawn.angle
        top, low = drawn.round if isinstance(drawn.round, tuple) else (drawn.round, drawn.round)
        tint = np.asarray(self.tint) / 255.0
        first = np.minimum(np.asarray(colour, np.float64) * tint, 1.0)
        last = first if bottom is None else np.minimum(np.asarray(bottom, np.float64) * tint, 1.0)
        size = np.abs(self.scale_y)
        self.target.add(
            x=px,
            y=py,
            rx=np.maximum(np.abs(rx * self.scale_x), 1e-3),
            ry=np.maximum(np.abs(ry * self.scale_y), 1e-3),
            cos=np.cos(turn),
            sin=np.sin(turn),
            taper=drawn.taper,
            bend=drawn.bend * self.scale_x,
            round_top=max(top, 0.02),
            round_bottom=max(low, 0.02),
            soft=drawn.soft * size,
            alpha=drawn.alpha,
            outline=OUTLINE * drawn.outline * np.sqrt(size),
            ink=drawn.ink if drawn.outline else 1.0,
            **dict(zip(("r0", "g0", "b0"), first, strict=True)),
            **dict(zip(("r1", "g1", "b1"), last, strict=True)),
        )


def lighten(colour: RGB, amount: float) -> RGB:
    """Mixes `colour` with white."""
    red, green, blue = (c + (255 - c) * amount for c in colour)
    return red, green, blue


def darken(colour: RGB, amount: float) -> RGB:
    """Mixes `colour` with black."""
    red, green, blue = (c * (1 - amount) for c in colour)
    return red, green, blue
