"""The six places at three times of day: a sky, a sun or moon, silhouettes and a ground.

Three pens of increasing depth scale draw them: far, mid and near.
The camera moves each at a different speed.
"""

from dataclasses import dataclass

from causalcine_jax.storyworld.shapes import Pen

CENTRE = 5 / 6


@dataclass(frozen=True)
class Light:
    """Colours of a time of day, as factors on 0..255 RGB except `sky`.

    `scenery` multiplies the place's colours; `figures`, close to white, the characters'.
    """

    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    scenery: tuple[float, float, float]
    figures: tuple[float, float, float]


LIGHTS = {
    "day": Light(((74, 168, 245), (200, 236, 255)), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "sunset": Light(((232, 96, 108), (255, 204, 120)), (0.92, 0.68, 0.58), (1.0, 0.95, 0.90)),
    "night": Light(((20, 24, 78), (70, 84, 156)), (0.44, 0.52, 0.78), (0.88, 0.90, 0.98)),
}


@dataclass(frozen=True)
class PlaceLayout:
    """What a story varies about a place, the same at every visit.

    `shift` moves the silhouettes sideways; `mirror` is -1 for the mirror image, else 1.
    """

    shift: float
    mirror: float


def draw_place(
    pens: tuple[Pen, Pen, Pen], sky: Pen, place: str, time: str, layout: PlaceLayout
) -> None:
    """Paints the background.

    `sky` does not move. `pens` are far, mid and near. While the camera rests, their origin
    (0, 0) is the frame's top left.
    """
    light = LIGHTS[time]
    sky.shape(CENTRE, 0.34, 3.0, 0.36, *light.sky, round=0.0, outline=0)
    sky.shape(CENTRE, 1.35, 3.0, 0.66, light.sky[1], round=0.0, outline=0)
    _heavens(sky, pens[0], time, layout)
    far, mid, near = (
        pen.child(CENTRE + layout.shift * depth, 0.0, scale_x=layout.mirror, tint=light.scenery)
        for pen, depth in zip(pens, (0.5, 1.0, 1.0), strict=True)
    )
    PAINTERS[place](far, mid, near, time == "night")


def _heavens(sky: Pen, far: Pen, time: str, layout: PlaceLayout) -> None:
    x = CENTRE - 0.52 * layout.mirror
    if time == "sunset":
        far.shape(x, 0.50, 0.42, 0.42, (255, 236, 150), soft=0.2, alpha=0.75, outline=0)
        far.shape(x, 0.50, 0.17, 0.17, (255, 246, 180), outline=0)
    elif time == "night":
        far.shape(x, 0.18, 0.20, 0.20, (150, 170, 235), soft=0.1, alpha=0.6, outline=0)
        far.shape(x, 0.18, 0.085, 0.085, (252, 248, 220), outline=0)
        for sx, sy in ((-0.25, 0.12), (0.2, 0.24), (0.5, 0.09)):
            far.shape(
                CENTRE + sx * layout.mirror,
                sy,
                0.016,
                0.016,
                (250, 250, 235),
                soft=0.004,
                outline=0,
            )
    else:
        far.shape(x, 0.16, 0.10, 0.10, (255, 232, 90), soft=0.01, outline=0)
        for cx, cy, r in ((0.05, 0.16, 0.16), (0.55, 0.27, 0.20)):
            far.shape(
                CENTRE + cx * layout.mirror,
                cy,
                r,
                r * 0.32,
                (255, 255, 255),
                round=(1.0, 0.6),
                alpha=0.9,
                soft=0.01,
                outline=0,
            )


def _meadow(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    far.shape(-0.45, 0.80, 0.95, 0.30, (150, 206, 120), outline=0)
    far.shape(0.65, 0.82, 0.85, 0.36, (126, 192, 110), outline=0)
    mid.shape(0.68, 0.52, 0.035, 0.16, (140, 96, 64), round=0.2, outline=0)
    mid.shape(0.68, 0.34, 0.19, 0.17, (84, 160, 72), (60, 130, 60), outline=0)
    near.shape(0, 1.08, 2.6, 0.46, (132, 206, 88), (84, 160, 66), round=0.9, outline=0)
    for x, y, colour in (
        (-0.62, 0.80, (255, 250, 240)),
        (-0.38, 0.93, (255, 150, 190)),
        (0.42, 0.80, (255, 226, 110)),
        (0.64, 0.92, (255, 250, 240)),
    ):
        near.shape(x, y, 0.03, 0.022, colour, outline=0)


def _beach(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    far.shape(0, 0.78, 3.0, 0.26, (40, 140, 200), (80, 204, 214), round=0.0, outline=0)
    far.shape(0.5, 0.53, 0.26, 0.06, (90, 150, 130), round=(1.0, 0.1), outline=0)
    mid.shape(0, 0.735, 3.0, 0.022, (235, 250, 250), alpha=0.9, round=0.5, outline=0)
    near.shape(0, 1.03, 3.2, 0.29, (252, 226, 160), (228, 190, 120), round=0.3, outline=0)
    near.shape(0.66, 0.53, 0.032, 0.28, (164, 116, 70), bend=0.10, round=0.3, outline=0)
    for dx, dy, angle in (
        (-0.13, 0.02, -0.5),
        (0.15, 0.02, 0.5),
        (-0.04, -0.09, -0.1 + 1.57),
        (0.06, 0.10, 1.1),
    ):
        near.shape(
            0.74 + dx,
            0.25 + dy,
            0.17 if abs(angle) < 1 else 0.05,
            0.05 if abs(angle) < 1 else 0.13,
            (50, 150, 84),
            angle=angle * 0.6,
            outline=0,
        )


def _forest(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    far.shape(0, 0.60, 3.0, 0.24, (140, 190, 150), (96, 150, 110), round=0.4, outline=0)
    for x, h in ((-0.78, 0.34), (-0.30, 0.26), (0.24, 0.28), (0.76, 0.36)):
        far.shape(
            x,
            0.70 - h,
            0.20,
            h,
            (72, 142, 104),
            (60, 124, 88),
            taper=0.9,
            round=(0.1, 0.1),
            outline=0,
        )
    near.shape(0, 1.08, 2.6, 0.42, (98, 146, 72), (70, 112, 56), round=0.7, outline=0)
    for x, r in ((-0.66, 0.075), (0.62, 0.09)):
        mid.shape(x, 0.40, r, 0.46, (128, 86, 58), (98, 64, 44), taper=0.18, round=0.1, outline=0)
    mid.shape(-0.70, 0.02, 0.42, 0.19, (52, 122, 62), outline=0)
    mid.shape(0.66, 0.0, 0.46, 0.20, (60, 132, 66), outline=0)


def _mountains(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    for x, h, w in ((-0.50, 0.30, 0.52), (0.52, 0.26, 0.48), (0.02, 0.19, 0.40)):
        far.shape(
            x,
            0.72 - h,
            w,
            h,
            (122, 138, 176),
            (96, 112, 156),
            taper=0.94,
            round=(0.06, 0.02),
            outline=0,
        )
        far.shape(
            x,
            0.72 - 2 * h + 0.34 * h,
            w * 0.395,
            h * 0.34,
            (250, 252, 255),
            taper=0.84,
            round=(0.06, 0.02),
            outline=0,
        )
    near.shape(0, 1.10, 2.6, 0.44, (226, 238, 250), (176, 204, 234), round=0.8, outline=0)
    for x, s in ((-0.70, 0.12), (0.72, 0.14)):
        mid.shape(
            x,
            0.62 - s,
            s * 0.75,
            s * 1.5,
            (58, 110, 104),
            (44, 90, 92),
            taper=0.9,
            round=0.1,
            outline=0,
        )


def _desert(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    far.shape(
        -0.32, 0.52, 0.42, 0.22, (224, 160, 104), (206, 138, 88), taper=0.96, round=0.03, outline=0
    )
    far.shape(0.36, 0.84, 0.9, 0.26, (240, 184, 116), outline=0)
    near.shape(0, 1.06, 2.8, 0.40, (246, 200, 124), (216, 152, 84), round=0.8, outline=0)
    cactus = (72, 150, 92)
    mid.shape(0.66, 0.52, 0.062, 0.26, cactus, round=(1.0, 0.3), outline=0)
    for x, y in ((0.54, 0.47), (0.78, 0.41)):
        mid.shape(x, y, 0.042, 0.10, cactus, outline=0)
    mid.shape(0.66, 0.52, 0.13, 0.034, cactus, round=0.8, outline=0)


def _city(far: Pen, mid: Pen, near: Pen, night: bool) -> None:
    for x, h, w, colour in (
        (-0.25, 0.24, 0.15, (170, 178, 204)),
        (0.22, 0.28, 0.13, (178, 170, 196)),
    ):
        far.shape(x, 0.80 - h, w, h, colour, round=0.03, outline=0)
    # Lit windows exceed 255: the night's scenery factor darkens them again.
    window = (255, 236, 150) if not night else (570, 450, 190)
    for x, h, w, colour in (
        (-0.72, 0.33, 0.21, (206, 128, 108)),
        (0.68, 0.29, 0.22, (116, 148, 186)),
    ):
        mid.shape(x, 0.82 - h, w, h, colour, round=0.02, outline=0)
        for y in (0.30, 0.52):
            mid.shape(x, y + 0.02, w * 0.62, 0.055, window, round=0.1, outline=0)
    near.shape(0, 0.83, 3.0, 0.05, (206, 206, 214), round=0.0, outline=0)
    near.shape(0, 1.14, 3.0, 0.28, (142, 144, 160), (112, 114, 134), round=0.0, outline=0)


PAINTERS = {
    "meadow": _meadow,
    "beach": _beach,
    "forest": _forest,
    "mountains": _mountains,
    "desert": _desert,
    "city": _city,
}
