"""Embeddings of shots: they find copies whose hashes differ, such as crops.

    stored frames -> a small picture every half second -> the one nearest to a shot's middle
                  -> a network for pictures (scorers/) -> float16 of length 1, as text in the row

Where shots and black bars are is known after the last frame. Until then the pictures are kept, as
JPEG. The whole picture is resized to a square: SSCD's authors advise it for copy detection
(github.com/facebookresearch/sscd-copy-detection, README), and one program serves all videos.
"""

import base64
import functools
import io
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, UInt8
from PIL import Image

from causalcine_jax.data.video.bars import Part
from causalcine_jax.data.video.frames import Picture, small
from causalcine_jax.data.video.manifest import Row
from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.render.clip import Stored
from causalcine_jax.scorers.scorers import BATCH, Scorers

SIDE = 224  # pixels, as CLIP and DINO were trained
SAMPLED = Fraction(1, 2)  # seconds: a chunk's shot is longer
QUALITY = 90  # of JPEG

PictureEmbedder = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]]


@functools.lru_cache(1)
def embedder_of(name: str, weights: Path) -> PictureEmbedder:
    """The network called `name`, one of `sources.PICTURES`, once per process.

    Raises:
      DataError: the weights are missing, damaged or of another network.
    """
    embedder = Scorers({name: weights}).pictures(name)
    return replace(embedder, how=replace(embedder.how, side=SIDE, crop=0))


class Pictures:
    """Small pictures of a video, one every SAMPLED seconds."""

    def __init__(self):
        self._small = small((SIDE, SIDE))
        self._next = Fraction(0)
        self._numbers = array("q")  # of the frames
        self._files: list[bytes] = []

    def see(self, number: int, frame: Stored) -> None:
        """Takes stored frame `number`, if its time has come."""
        if frame.start < self._next:
            return
        self._next = frame.start + SAMPLED
        file = io.BytesIO()
        Image.fromarray(self._small(frame)).save(file, "JPEG", quality=QUALITY)
        self._numbers.append(number)
        self._files.append(file.getvalue())

    def embeddings(
        self, shots: Sequence[DetectedShot], inside: Part, embed: PictureEmbedder
    ) -> list[str | None]:
        """Each shot's embedding as text; None for shots too short to have a picture.

        Args:
          shots: ranges of stored frames.
          inside: the part of the pictures that is not in bars.
          embed: of `embedder_of`.
        """
        nearest = [self._nearest(shot) for shot in shots]
        seen = [at for at in nearest if at is not None]
        found: list[str] = []
        for start in range(0, len(seen), BATCH):
            some = seen[start : start + BATCH]
            found += map(_text, embed(np.stack([self._picture(at, inside) for at in some])))
        texts = iter(found)
        return [None if at is None else next(texts) for at in nearest]

    def _nearest(self, shot: DetectedShot) -> int | None:
        """Which picture of the shot is the nearest to its middle."""
        first, stop = np.searchsorted(self._numbers, (shot.start, shot.end))
        middle = (shot.start + shot.end - 1) / 2
        return min(range(first, stop), key=lambda at: abs(self._numbers[at] - middle), default=None)

    def _picture(self, at: int, inside: Part) -> Picture:
        left, top, right, bottom = (SIDE * edge for edge in inside)
        image = Image.open(io.BytesIO(self._files[at]))
        return np.asarray(
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, right, bottom))
        )


def _text(vector: Float[np.ndarray, " d"]) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def embedding_of(shot: Row) -> Float16[np.ndarray, " d"] | None:
    """The embedding in a shot's row; None if it has none."""
    text = shot.get("embedding")
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f2")
