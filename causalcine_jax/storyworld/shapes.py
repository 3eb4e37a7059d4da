"""The host's side of drawing: a pen with a place, scale and tilt that adds shapes to a display list.

A shape's numbers may be scalars or arrays [T], one value per frame of a shot. Pens nest: a character is drawn by a child of
the camera's pen, its head by a child of the character's, so that moving one moves all that hangs on it.
"""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.storyworld.render import FIELDS

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
        """float32 [T, MAX_SHAPES, fields]; unused rows are transparent."""
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
class Pen:
    """Draws in a frame of reference of its own. Angles are in radians, clockwise on the screen."""

    target: DisplayList
    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    scale_x: np.ndarray | float = 1.0
    scale_y: np.ndarray | float = 1.0
    angle: np.ndarray | float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def point(self, x, y):
        """Screen position of a point of this pen's own frame."""
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
        *,
        angle=0.0,
        taper=0.0,
        bend=0.0,
        round=1.0,
        soft=0.0,
        alpha=1.0,
        outline=1.0,
        ink=0.4,
    ):
        """Adds one shape. `colour`, `bottom`: 0..255 RGB at its top and bottom. `round`: corner radius, or (top, bottom). See render.FIELDS."""
        px, py = self.point(x, y)
        sign = np.sign(self.scale_x)
        turn = self.angle + sign * angle
        top, low = round if isinstance(round, tuple) else (round, round)
        tint = np.asarray(self.tint) / 255.0
        first = np.minimum(np.asarray(colour, np.float64) * tint, 1.0)
        last = first if bottom is None else np.minimum(np.asarray(bottom, np.float64) * tint, 1.0)
        size = np.abs(self.scale_y)
        self.target.add(
            x=px, y=py, rx=np.maximum(np.abs(rx * self.scale_x), 1e-3), ry=np.maximum(np.abs(ry * self.scale_y), 1e-3), cos=np.cos(turn), sin=np.sin(turn),
            taper=taper, bend=bend * self.scale_x, round_top=max(top, 0.02), round_bottom=max(low, 0.02), soft=soft * size, alpha=alpha,
            outline=OUTLINE * outline * np.sqrt(size), ink=ink if outline else 1.0,
            r0=first[0], g0=first[1], b0=first[2], r1=last[0], g1=last[1], b1=last[2],
        )  # fmt: skip


def lighten(colour, amount: float) -> tuple[float, ...]:
    """`colour` mixed with white."""
    return tuple(c + (255 - c) * amount for c in colour)


def darken(colour, amount: float) -> tuple[float, ...]:
    """`colour` mixed with black."""
    return tuple(c * (1 - amount) for c in colour)
