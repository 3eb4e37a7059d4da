"""How a character looks: species, fur and accessory as shapes around a posed skeleton.

In its own units, the feet are at (0, 0) and the top of the bare head at y = -1.
Heads are big because a small film shows little else.
"""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.storyworld.accessories import draw_on_head, draw_on_neck
from causalcine_jax.storyworld.shapes import Pen, darken, lighten
from causalcine_jax.storyworld.world import COLOURS, RGB

HEAD = (0.0, -0.70)  # centre of the head
HEAD_RADIUS = (0.30, 0.27)
CREST = {"frog": -0.10}  # hats sit this much higher, above the frog's eyes
DARK = (26, 22, 34)
BEAK = (255, 176, 40)


@dataclass
class Pose:
    """Angles in radians and offsets in character heights; scalars or [T]."""

    dx: np.ndarray | float = 0.0
    dy: np.ndarray | float = 0.0
    lean: np.ndarray | float = 0.0
    stretch: np.ndarray | float = 1.0
    sink: np.ndarray | float = 0.0  # how far the hip is lowered
    left_arm: np.ndarray | float = 0.35  # 0 = hanging, pi = straight up
    right_arm: np.ndarray | float = 0.35
    left_leg: np.ndarray | float = 0.0  # swing
    right_leg: np.ndarray | float = 0.0
    head_x: np.ndarray | float = 0.0
    head_y: np.ndarray | float = 0.0
    head_tilt: np.ndarray | float = 0.0
    gaze: np.ndarray | float = 0.0  # -1 left to 1 right
    asleep: bool = False


def draw_character(
    pen: Pen, species: str, colour: str, accessory: str, pose: Pose
) -> tuple[Pen, Pen, Pen]:
    """Draws a character that stands at the origin of `pen`.

    Returns the pens of its trunk, head and crest, from which the ground truth takes boxes.
    """
    fur = COLOURS[colour]
    pale = lighten(fur, 0.62) if colour != "white" else (255, 226, 196)
    ink = 0.42 if colour != "black" else 0.3
    standing = pen.child(pose.dx, pose.dy)
    grounded = pen.child(pose.dx, 0.0)
    grounded.shape(0, 0.0, 0.30, 0.045, (10, 20, 40), alpha=0.30, soft=0.02, outline=0)
    body = standing.child(0, 0, 2 - pose.stretch, pose.stretch, angle=pose.lean)
    trunk = body.child(0, pose.sink)
    head = trunk.child(HEAD[0] + pose.head_x, HEAD[1] + pose.head_y, angle=pose.head_tilt)

    _tail(trunk, species, fur, pale, ink)
    for side, swing in ((-1, pose.left_leg), (1, pose.right_leg)):
        leg = body.child(side * 0.11, -0.17, angle=swing)
        leg.shape(0, 0.07, 0.075, 0.11, fur, ink=ink)
        leg.shape(side * 0.02, 0.15, 0.105, 0.05, darken(fur, 0.18), ink=ink)
    wide = {"bear": 0.25, "elephant": 0.25, "owl": 0.24}.get(species, 0.20)
    trunk.shape(0, -0.30, wide, 0.24, fur, darken(fur, 0.12), taper=0.18, ink=ink)
    trunk.shape(0, -0.25, wide * 0.6, 0.15, pale, outline=0)
    for side, lift in ((-1, pose.left_arm), (1, pose.right_arm)):
        arm = trunk.child(side * wide * 0.78, -0.42, angle=-side * lift)
        if species == "owl":
            arm.shape(0, 0.13, 0.095, 0.19, darken(fur, 0.15), ink=ink, taper=-0.25)
        else:
            arm.shape(0, 0.11, 0.068, 0.15, lighten(fur, 0.06), ink=ink)
    draw_on_neck(trunk, accessory)
    _head(head, species, fur, pale, ink, pose)
    crest = head.child(0, CREST.get(species, 0.0))
    draw_on_head(crest, accessory)
    return trunk, head, crest


def _tail(pen: Pen, species: str, fur: RGB, pale: RGB, ink: float) -> None:
    if species == "fox":
        pen.shape(0.33, -0.24, 0.13, 0.24, fur, angle=0.7, bend=0.05, taper=-0.3, ink=ink)
        pen.shape(0.43, -0.36, 0.085, 0.10, pale, angle=0.7, outline=0)
    elif species == "rabbit":
        pen.shape(0.22, -0.17, 0.085, 0.08, pale, ink=ink + 0.2)
    elif species == "elephant":
        pen.shape(0.28, -0.2, 0.03, 0.14, darken(fur, 0.2), angle=-0.5, outline=0)


def _head(pen: Pen, species: str, fur: RGB, pale: RGB, ink: float, pose: Pose) -> None:
    rx, ry = HEAD_RADIUS
    inner = lighten(darken(fur, 0.15), 0.25)
    look = 0.055 * np.asarray(pose.gaze)
    eye_y, eye_x, eye_r = -0.02, 0.115, 0.072
    if species == "fox":
        for side in (-1, 1):
            pen.shape(
                side * 0.215,
                -0.27,
                0.125,
                0.20,
                fur,
                angle=side * 0.42,
                taper=0.85,
                round=(0.5, 0.3),
                ink=ink,
            )
            pen.shape(
                side * 0.215,
                -0.25,
                0.062,
                0.12,
                DARK,
                angle=side * 0.42,
                taper=0.8,
                round=(0.5, 0.3),
                outline=0,
            )
        pen.shape(0, 0, rx, ry, fur, ink=ink, taper=-0.16)
        for side in (-1, 1):
            pen.shape(side * 0.135 + look, 0.13, 0.135, 0.10, pale, angle=-side * 0.5, outline=0)
    elif species == "rabbit":
        for side in (-1, 1):
            pen.shape(side * 0.135, -0.42, 0.085, 0.27, fur, angle=side * 0.16, ink=ink)
            pen.shape(side * 0.135, -0.42, 0.042, 0.20, pale, angle=side * 0.16, outline=0)
        pen.shape(0, 0, rx * 0.95, ry, fur, ink=ink, taper=0.08)
        pen.shape(look, 0.12, 0.13, 0.095, pale, outline=0)
    elif species == "bear":
        for side in (-1, 1):
            pen.shape(side * 0.235, -0.215, 0.115, 0.115, fur, ink=ink)
            pen.shape(side * 0.235, -0.215, 0.06, 0.06, inner, outline=0)
        pen.shape(0, 0, rx * 1.04, ry, fur, ink=ink, taper=0.10)
        pen.shape(look * 1.4, 0.12, 0.15, 0.115, pale, outline=0)
    elif species == "owl":
        for side in (-1, 1):
            pen.shape(
                side * 0.235,
                -0.235,
                0.085,
                0.13,
                darken(fur, 0.15),
                angle=side * 0.75,
                taper=0.85,
                round=(0.5, 0.3),
                ink=ink,
            )
        pen.shape(0, 0, rx * 1.03, ry, fur, ink=ink, round=0.9)
        for side in (-1, 1):
            pen.shape(side * 0.135 + look, 0.0, 0.15, 0.16, pale, outline=0)
        eye_x, eye_r, eye_y = 0.13, 0.10, -0.01
    elif species == "frog":
        for side in (-1, 1):
            pen.shape(side * 0.185, -0.20, 0.125, 0.125, fur, ink=ink)
        pen.shape(0, 0.03, rx * 1.18, ry * 0.9, fur, ink=ink, taper=0.12)
        pen.shape(0, 0.155, 0.23, 0.10, pale, outline=0)
        eye_x, eye_r, eye_y = 0.185, 0.085, -0.21
    else:
        for side in (-1, 1):
            pen.shape(side * 0.40, -0.03, 0.20, 0.26, fur, angle=side * 0.15, ink=ink, taper=-0.15)
            pen.shape(
                side * 0.40, -0.02, 0.12, 0.18, inner, angle=side * 0.15, outline=0, taper=-0.15
            )
        pen.shape(0, 0, rx * 0.95, ry, fur, ink=ink, taper=-0.05)

    for side in (-1, 1):
        x = side * eye_x + look
        if pose.asleep:
            pen.shape(x, eye_y + 0.02, 0.07, 0.03, DARK, outline=0)
            pen.shape(x, eye_y + 0.0, 0.07, 0.026, fur if species != "owl" else pale, outline=0)
        else:
            pen.shape(x, eye_y, eye_r, eye_r * 1.15, (255, 255, 255), outline=0.8, ink=0.2)
            pen.shape(x + look * 0.6, eye_y + 0.008, eye_r * 0.58, eye_r * 0.72, DARK, outline=0)

    if species == "owl":
        pen.shape(look * 1.3, 0.10, 0.055, 0.075, BEAK, taper=-0.8, round=0.4, ink=0.5)
    elif species == "frog":
        pen.shape(look, 0.105, 0.016, 0.17, DARK, angle=np.pi / 2, bend=-0.05, outline=0)
    elif species == "elephant":
        pen.shape(
            look * 1.4, 0.20, 0.085, 0.20, lighten(fur, 0.10), taper=-0.25, bend=0.06, ink=ink
        )
        pen.shape(look * 1.4 + 0.045, 0.37, 0.065, 0.035, inner, outline=0)
    else:
        pen.shape(look * 1.5, 0.075, 0.055, 0.042, DARK, outline=0, taper=-0.3)
        pen.shape(look * 1.4, 0.16, 0.013, 0.055, DARK, angle=np.pi / 2, bend=-0.02, outline=0)
