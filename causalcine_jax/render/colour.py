"""Converts exactly between a film's RGB and a file's YUV, with any version of FFmpeg.

swscale's default is fast but inexact: a flat patch comes back more than one level darker.
A film continued from its own last frame would darken with every generation.
accurate_rnd rounds instead of truncating.
full_chroma_int computes each pixel instead of looking up a table per pair.
Unless a file says otherwise, chroma is sited as in H.264: on a pair's left pixel, between rows.
"""

from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.render.still import BACKGROUND, EIGHT_BIT

EXACT = "flags=accurate_rnd+full_chroma_int+bicubic"
LEFT_SITED = "{side}_h_chr_pos=0:{side}_v_chr_pos=128"
BT709, BT2020 = 1, 9
LIMITED_RANGE, FULL_RANGE = 1, 2
UNSPECIFIED = (None, 0, 2)  # values of `colorspace` for an unspecified matrix
# For a file of unspecified matrix, players take BT.709 from this height on and BT.601 below.
HD_HEIGHT = 720


class ToYUV:
    """Converts RGB frames of one size to yuv420p in BT.709 and limited range."""

    def __init__(self, width: int, height: int):
        sited = LEFT_SITED.format(side="out")
        args = f"out_color_matrix=bt709:out_range=tv:in_range=pc:{sited}:{EXACT}"
        self._convert = _Converter(width, height, "rgb24", "yuv420p", args)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1)
        return self._convert(frame)


class ToRGB:
    """Converts decoded frames to RGB arrays [h,w,3], by each frame's own matrix and range.

    Sizes and formats may change between frames. Transparent pixels show BACKGROUND.

    size         width and height of the arrays; None keeps a frame's own
    transparent  whether a frame had transparent pixels
    """

    def __init__(self, size: tuple[int, int] | None = None):
        self.transparent = False
        self._size = "" if size is None else "w={}:h={}:".format(*size)
        self._converters: dict[tuple, _Converter] = {}

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        target = _target(frame)
        key = frame.width, frame.height, frame.format.name, target, frame.colorspace
        if key not in self._converters:
            self._converters[key] = _Converter(*key[:4], self._size + _reading(frame))
        image = self._converters[key](frame).to_ndarray()
        if target == "rgb48le":
            return EIGHT_BIT[image]
        return self._on_background(image) if target == "rgba" else image

    def _on_background(self, image: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
        alpha = image[..., 3:].astype(np.uint16)
        if alpha.min() == 255:
            return image[..., :3]
        self.transparent = True
        background = np.array(BACKGROUND, np.uint16) * (255 - alpha)
        return ((image[..., :3] * alpha + background + 127) // 255).astype(np.uint8)


class ToLastingRGB:
    """As ToRGB, for a film that goes on from these frames: it shows them as their file does.

    A film stores one chroma value per four pixels. So each generation would blur colours at edges
    again, and clipping to RGB's range would shift their mean. Each pixel is therefore corrected by
    its error after encoding and decoding, until the mean error is below TOLERANCE.
    """

    ROUNDS, TOLERANCE = 8, 0.1  # TOLERANCE: in levels of 0..255

    def __init__(self):
        self._to_rgb, self._to_yuv = ToRGB(), {}

    @property
    def transparent(self) -> bool:
        return self._to_rgb.transparent

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        shown = image = self._to_rgb(frame)
        if frame.format.name != "yuv420p":
            return shown
        size = frame.width, frame.height
        if size not in self._to_yuv:
            self._to_yuv[size] = ToYUV(*size)
        for _ in range(self.ROUNDS):
            stored = self._to_yuv[size](image)
            stored.colorspace = BT709
            wrong = shown.astype(np.int16) - self._to_rgb(stored)
            if np.abs(wrong).mean() < self.TOLERANCE:
                break
            image = np.clip(image + wrong, 0, 255).astype(np.uint8)
        return image


class _Converter:
    def __init__(self, width: int, height: int, source: str, target: str, args: str):
        graph = av.filter.Graph()
        layout = av.VideoFormat(source)
        first = graph.add_buffer(width=width, height=height, format=layout, time_base=Fraction(1))
        steps = [
            first,
            graph.add("scale", args),
            graph.add("format", f"pix_fmts={target}"),
            graph.add("buffersink"),
        ]
        for step, after in zip(steps[:-1], steps[1:]):
            step.link_to(after)
        graph.configure()
        self._graph, self._first = graph, first

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        self._first.push(frame)
        return self._graph.vpull()


def _target(frame: av.VideoFrame) -> str:
    parts = frame.format.components
    if any(part.is_alpha for part in parts):
        return "rgba"
    # To eight bits swscale truncates more than eight bits of full range: half a level is lost.
    deep = not frame.format.is_rgb and max(part.bits for part in parts) > 8
    return "rgb48le" if deep and frame.color_range == FULL_RANGE else "rgb24"


def _reading(frame: av.VideoFrame) -> str:
    parts = ["out_range=pc", EXACT]
    if frame.colorspace in UNSPECIFIED and not frame.format.is_rgb:
        parts.append("in_color_matrix=" + ("bt709" if frame.height >= HD_HEIGHT else "bt601"))
    if frame.format.name in ("yuv420p", "yuv420p10le"):
        parts.append(LEFT_SITED.format(side="in"))
    return ":".join(parts)
