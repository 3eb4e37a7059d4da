"""Pixels: one pure array function from a display list to a film, the same under numpy and jax.jit.

The host describes every frame as a fixed number of shapes, back to front (shapes.py, scene.py). Each shape is a rounded box
in its own rotated and scaled frame, optionally tapered and bent: that is enough for discs, ellipses, eggs, drops, domes,
triangles, limbs, hills and houses. Its edge is anti-aliased from an approximate signed distance, so nothing here depends on
the resolution but the pixel grid.
"""

import numpy as np

# The columns of a display list. Lengths are in frame heights, y points down, the frame spans [0, 5/3] x [0, 1].
FIELDS = (
    "x", "y", "rx", "ry", "cos", "sin",  # centre, half axes, rotation
    "taper", "bend",  # width grows by taper * v toward v = 1 (down); sideways shift by bend * v^2
    "round_top", "round_bottom",  # corner radius as a fraction of the half axes: 1 = ellipse, 0 = box
    "soft", "alpha", "outline", "ink",  # extra edge softness, opacity, outline width, brightness of the outline
    "r0", "g0", "b0", "r1", "g1", "b1",  # colour at the top and at the bottom, 0..1
)  # fmt: skip


def render(params, height: int, width: int, xp=np):
    """Paints a film.

    Args:
      params: dict with "shapes", float32 [T, K, len(FIELDS)], painted in order of K.
      height, width: size in pixels (3:5).
      xp: numpy or jax.numpy. Under jax.jit, `height`, `width` and `xp` are static.

    Returns:
      uint8 [T, height, width, 3]. numpy and jax agree within one grey level.
    """
    shapes = xp.asarray(params["shapes"], dtype=xp.float32)
    pixel = np.float32(1.0 / height)
    ys = ((xp.arange(height, dtype=xp.float32) + 0.5) * pixel)[None, :, None]
    xs = ((xp.arange(width, dtype=xp.float32) + 0.5) * pixel)[None, None, :]
    red = green = blue = xp.zeros((shapes.shape[0], height, width), dtype=xp.float32)
    for k in range(shapes.shape[1]):
        s = {name: shapes[:, k, i, None, None] for i, name in enumerate(FIELDS)}
        distance, v = _distance(s, xs, ys, xp)
        edge = 0.5 * pixel + s["soft"]
        coverage = s["alpha"] * _smooth(0.5 - distance / (2 * edge), xp)
        line = 1.0 - (1.0 - s["ink"]) * _smooth(0.5 + (distance + s["outline"]) / pixel, xp)
        mix = xp.clip(0.5 + 0.5 * v, 0.0, 1.0)
        red = red + coverage * ((s["r0"] + (s["r1"] - s["r0"]) * mix) * line - red)
        green = green + coverage * ((s["g0"] + (s["g1"] - s["g0"]) * mix) * line - green)
        blue = blue + coverage * ((s["b0"] + (s["b1"] - s["b0"]) * mix) * line - blue)
    film = xp.stack([red, green, blue], axis=-1)
    return xp.clip(film * 255.0 + 0.5, 0.0, 255.0).astype(xp.uint8)


def _distance(s, xs, ys, xp):
    """Signed distance to a shape's edge in frame heights (first order, good near the edge), and the local height v in [-1, 1]."""
    dx, dy = xs - s["x"], ys - s["y"]
    u = s["cos"] * dx + s["sin"] * dy
    v = (s["cos"] * dy - s["sin"] * dx) / s["ry"]
    inside = xp.clip(v, -1.0, 1.0)
    half_width = s["rx"] * (1.0 + s["taper"] * inside)
    u = (u - s["bend"] * inside * inside) / half_width
    corner = xp.where(v < 0, s["round_top"], s["round_bottom"])
    mu = xp.maximum(xp.abs(u) - (1.0 - corner), 0.0)
    mv = xp.maximum(xp.abs(v) - (1.0 - corner), 0.0)
    length = xp.sqrt(mu * mu + mv * mv)
    slope_u, slope_v = mu / half_width, mv / s["ry"]
    slope = xp.sqrt(slope_u * slope_u + slope_v * slope_v)
    # Where no corner is near (length 0) the quotient's limit is any length scale of the shape; it is deep inside there.
    scale = (length + 1e-4) / (slope + 1e-4 / xp.minimum(half_width, s["ry"]))
    return (length - corner) * scale, v


def _smooth(t, xp):
    """Smoothstep of t clipped to [0, 1]."""
    t = xp.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
