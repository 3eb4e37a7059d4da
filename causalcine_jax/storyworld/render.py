"""Renders a display list to pixels: one pure array function, for numpy and jax.jit alike.

The host describes every frame as a fixed number of shapes, back to front (shapes, scene).
Each shape is a rounded box in its own rotated and scaled frame, optionally tapered and bent.
That covers discs, ellipses, eggs, drops, domes, triangles, limbs, hills and houses.
Edges are anti-aliased from an approximate signed distance, f / |grad f|.
Only the pixel grid depends on the resolution.
"""

import functools

import numpy as np

# Columns of a display list. Lengths are in frame heights and y points down.
# The frame spans [0, 5/3] x [0, 1].
FIELDS = (
    "x", "y", "rx", "ry", "cos", "sin",  # centre, half axes, rotation
    "taper", "bend",  # width grows by taper * v toward v = 1 (down); x shifts by bend * v^2
    "round_top", "round_bottom",  # corner radius over half axes: 1 = ellipse, 0 = box
    "soft", "alpha", "outline", "ink",  # edge softness, opacity, outline's width, its brightness
    "r0", "g0", "b0", "r1", "g1", "b1",  # colour at the top and at the bottom, 0..1
)  # fmt: skip
TOP = slice(FIELDS.index("r0"), FIELDS.index("r0") + 3)
BOTTOM = slice(FIELDS.index("r1"), FIELDS.index("r1") + 3)
NUMPY_BLOCK = 8  # frames that numpy paints at once: their canvas then fits the CPU's cache


def render(params, height: int, width: int, xp=np):
    """Paints a film.

    Args:
      params: dict with "shapes", float32 [T, K, len(FIELDS)], painted in order of K.
      height, width: size in pixels (3:5).
      xp: numpy or jax.numpy. Under jax.jit, `height`, `width` and `xp` are static.

    Returns:
      uint8 [T, height, width, 3]. numpy and jax agree within one grey level.
    """
    shapes = xp.moveaxis(xp.asarray(params["shapes"], dtype=xp.float32), 1, 0)
    if xp is np:
        blocks = [shapes[:, i : i + NUMPY_BLOCK] for i in range(0, shapes.shape[1], NUMPY_BLOCK)]
        return np.concatenate(
            [
                _film(
                    functools.reduce(
                        lambda c, s: paint(c, s, np), b, _blank(b.shape[1], height, width, np)
                    ),
                    np,
                )
                for b in blocks
            ]
        )
    import jax  # here, because painting with numpy must not need jax

    canvas = _blank(shapes.shape[1], height, width, xp)
    canvas, _ = jax.lax.scan(lambda canvas, shape: (paint(canvas, shape, xp), None), canvas, shapes)
    return _film(canvas, xp)


def paint(canvas, shape, xp):
    """Paints one shape of every frame, [T, len(FIELDS)], over `canvas` [T, 3, H, W] in 0..1."""
    height, width = canvas.shape[-2:]
    pixel = np.float32(1.0 / height)
    ys = ((xp.arange(height, dtype=xp.float32) + 0.5) * pixel)[None, :, None]
    xs = ((xp.arange(width, dtype=xp.float32) + 0.5) * pixel)[None, None, :]
    s = {name: shape[:, i, None, None] for i, name in enumerate(FIELDS)}
    distance, v = _distance(s, xs, ys, xp)
    coverage = s["alpha"] * _smooth(0.5 - distance / (pixel + 2.0 * s["soft"]), xp)
    line = 1.0 - (1.0 - s["ink"]) * _smooth(0.5 + (distance + s["outline"]) / pixel, xp)
    down = xp.clip(0.5 + 0.5 * v, 0.0, 1.0)
    top, bottom = shape[:, TOP, None, None], shape[:, BOTTOM, None, None]
    colour = (top + (bottom - top) * down[:, None]) * line[:, None]
    return canvas + coverage[:, None] * (colour - canvas)


def _blank(frames: int, height: int, width: int, xp):
    return xp.zeros((frames, 3, height, width), dtype=xp.float32)


def _film(canvas, xp):
    return xp.moveaxis(xp.clip(canvas * 255.0 + 0.5, 0.0, 255.0).astype(xp.uint8), 1, -1)


def _distance(s, xs, ys, xp):
    """Returns the signed distance to a shape's edge and the local height v in [-1, 1].

    The distance is in frame heights, first order: good near the edge.
    """
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
    near_corner = (length - corner) * (length + 1e-9) / (slope + 1e-9)
    deep = -xp.minimum((1.0 - xp.abs(u)) * half_width, (1.0 - xp.abs(v)) * s["ry"])
    return xp.where(length > 0.0, near_corner, deep), v


def _smooth(t, xp):
    """Returns the smoothstep of t clipped to [0, 1]."""
    t = xp.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
