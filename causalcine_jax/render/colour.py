"""Exact colours between a film's RGB and a file's YUV, whatever version of FFmpeg is underneath.

swscale's default is quick and wrong: a flat patch comes back more than one level darker, and a film that goes on from its own end darkens with
every generation. accurate_rnd rounds where that truncates, and full_chroma_int computes each pixel where that looks up a table per pair.
Chroma is sited as H.264 has it where nothing else is said: on the left pixel of a pair, between two rows.
"""

from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

EXACT = "flags=accurate_rnd+full_chroma_int+bicubic"
LEFT_SITED = "{side}_h_chr_pos=0:{side}_v_chr_pos=128"
BT709, BT2020, LIMITED_RANGE = 1, 9, 1
PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
UNSAID = (None, 0, 2)  # matrices that a file does not name
HD_HEIGHT = (
    720  # from here on players take BT.709 where a file does not name its matrix, and BT.601 below
)


class ToYUV:
    """RGB frames of one size as yuv420p in BT.709 and limited range."""

    def __init__(self, width: int, height: int):
        args = f"out_color_matrix=bt709:out_range=tv:in_range=pc:{LEFT_SITED.format(side='out')}:{EXACT}"
        self._convert = _Converter(width, height, "rgb24", "yuv420p", args)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1)
        return self._convert(frame)


class ToRGB:
    """Decoded frames as RGB arrays [h,w,3], by the matrix and range that each names. Sizes and formats may change on the way."""

    def __init__(self):
        self._converters: dict[tuple, _Converter] = {}

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        key = frame.width, frame.height, frame.format.name, frame.colorspace
        if key not in self._converters:
            self._converters[key] = _Converter(*key[:3], "rgb24", _reading(frame))
        return self._converters[key](frame).to_ndarray()


class _Converter:
    def __init__(self, width: int, height: int, source: str, target: str, args: str):
        graph = av.filter.Graph()
        first = graph.add_buffer(width=width, height=height, format=source, time_base=Fraction(1))
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
        return self._graph.pull()


def _reading(frame: av.VideoFrame) -> str:
    parts = ["out_range=pc", EXACT]
    if frame.colorspace in UNSAID and not frame.format.is_rgb:
        parts.append("in_color_matrix=" + ("bt709" if frame.height >= HD_HEIGHT else "bt601"))
    if frame.format.name in ("yuv420p", "yuv420p10le"):
        parts.append(LEFT_SITED.format(side="in"))
    return ":".join(parts)
