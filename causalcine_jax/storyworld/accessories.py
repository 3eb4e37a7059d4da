"""The four accessories: each has one fixed shape in two fixed colours (world.ACCESSORIES).

All sit at the head or neck, so every framing shows them.
"""

from causalcine_jax.storyworld.shapes import Pen, darken
from causalcine_jax.storyworld.world import ACCESSORIES

# Box (x0, y0, x1, y1) around each accessory in its pen's frame of reference.
# Hat, crown and bow are drawn by the head's pen, the scarf by the trunk's.
BOXES = {
    "scarf": (-0.26, -0.52, 0.26, -0.16),
    "hat": (-0.29, -0.58, 0.29, -0.17),
    "crown": (-0.23, -0.47, 0.23, -0.18),
    "bow": (-0.32, -0.43, 0.32, -0.17),
}
ON_TRUNK = ("scarf",)


def draw_on_neck(trunk: Pen, accessory: str) -> None:
    if accessory != "scarf":
        return
    main, stripe = ACCESSORIES["scarf"]
    tail = trunk.child(0.13, -0.42, angle=-0.12)
    tail.shape(0, 0.13, 0.085, 0.17, main, round=0.25, ink=0.5)
    tail.shape(0, 0.10, 0.075, 0.035, stripe, round=0.2, outline=0)
    tail.shape(0, 0.21, 0.075, 0.035, stripe, round=0.2, outline=0)
    trunk.shape(0, -0.43, 0.28, 0.095, main, round=0.8, ink=0.5)
    for x in (-0.17, 0.0, 0.17):
        trunk.shape(x, -0.42, 0.035, 0.085, stripe, round=0.3, angle=-x * 1.5, outline=0)


def draw_on_head(head: Pen, accessory: str) -> None:
    if accessory == "scarf":
        return
    main, second = ACCESSORIES[accessory]
    if accessory == "hat":
        head.shape(0, -0.39, 0.185, 0.19, main, round=(0.25, 0.1), taper=-0.10, ink=0.5)
        head.shape(0, -0.30, 0.172, 0.065, second, round=0.1, outline=0)
        head.shape(0, -0.215, 0.30, 0.045, main, round=0.7, ink=0.5)
    elif accessory == "crown":
        for x in (-0.155, 0.0, 0.155):
            head.shape(
                x, -0.36, 0.085, 0.12, main, taper=0.9, round=(0.2, 0.1), angle=x * 1.2, ink=0.62
            )
        head.shape(
            0, -0.255, 0.225, 0.075, main, darken(main, 0.1), round=0.25, taper=-0.08, ink=0.62
        )
        for x in (-0.13, 0.0, 0.13):
            head.shape(x, -0.255, 0.04, 0.045, second, outline=0)
    else:
        for side in (-1, 1):
            head.shape(
                side * 0.175,
                -0.30,
                0.115,
                0.145,
                main,
                angle=-side * 1.45,
                taper=0.55,
                round=(0.2, 0.35),
                ink=0.45,
            )
            head.shape(side * 0.215, -0.305, 0.042, 0.06, second, outline=0)
        head.shape(0, -0.29, 0.065, 0.075, second, ink=0.45)
