"""A video read once, small: its shots on the model's clock, and what filters ask about each.

    stored frames -> small pictures -> a shot detector, which finds ranges of stored frames
                                    -> brightness, motion and a perceptual hash of every frame
    some frames, whole -> black bars around the picture
    some frames, small -> an embedding of every shot, where a network for it is given

Shots are found at the video's own rate, at which detectors were trained. Their ends are then the
first frames of the model's clock that show the next shot, so no frame of a shot shows another one.
"""

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from causalcine_jax.data.video.bars import Brightest, area
from causalcine_jax.data.video.captions import Cuts
from causalcine_jax.data.video.embeddings import PictureEmbedder, Pictures
from causalcine_jax.data.video.frames import Clock, Picture, checked, small, ticks
from causalcine_jax.data.video.manifest import Row
from causalcine_jax.data.video.pace import pace_of
from causalcine_jax.data.video.shots import DetectedShot, ShotDetector
from causalcine_jax.errors import DataError
from causalcine_jax.render.clip import Stored, beginning, stored, upright
from causalcine_jax.render.colour import ToRGB

SIZE = (48, 27)  # of the pictures: width, height, as TransNetV2 takes them
SIZES = {"scenedetect": (256, 144)}  # of detectors that ask for more
MOTION = Fraction(1, 4)  # seconds between two frames whose difference is a shot's motion
HASH_SIDE = 16
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
HASHED = (0.25, 0.5, 0.75)  # of a shot
VERSION = 4  # of the rows; raise it when their meaning changes


def scan(
    file: Path,
    detector: ShotDetector | None,
    cuts: Cuts | None = None,
    size: tuple[int, int] = SIZE,
    embed: PictureEmbedder | None = None,
) -> Row:
    """A video's row: "frames" on the model's clock, "clock", "pace", "begins" and "shots".

    The pace says when stored frames are shown (pace.py), in seconds from the first. The first is
    shown at "begins", in seconds of the file as players count them.

    A shot is {"first", "stop", "luma", "motion", "hashes"}: a range of frames on the model's clock;
    mean brightness and mean change in a quarter of a second, in grey levels, of the picture inside
    of black bars; perceptual hashes. With `embed` it has an "embedding" too (embeddings.py).

    Args:
      file: the video.
      detector: finds the shots; None takes them from `cuts`.
      cuts: where shots begin, as the captions say.
      size: of the pictures that the detector gets.
      embed: gives the embedding of pictures.

    Raises:
      DataError: the video is damaged.
    """
    seen = _Seen(Pictures() if embed else None)
    pictures = seen.watch(file, size)
    if detector is not None:
        shots: Sequence[DetectedShot] = detector(pictures)
    else:
        assert cuts is not None
        deque(pictures, maxlen=0)
        shots = seen.between(cuts)
    if not len(seen.luma):
        raise DataError(f"{file} has no frames")
    assert seen.clock is not None
    picture = seen.brightest.picture()
    rows = [seen.shot(shot, area(picture)) for shot in shots]
    if embed and seen.small:
        texts = seen.small.embeddings(shots, picture, embed)
        rows = [row | {"embedding": text} for row, text in zip(rows, texts, strict=True)]
    return {
        "frames": seen.ticks[-1],
        "pace": pace_of(seen.seconds),
        "begins": round(max(float(seen.clock - beginning(file)), 0.0), 3),
        "clock": Clock(seen.clock, seen.searched, picture).to_row(),
        "shots": rows,
    }


class _Seen:
    """Numbers of every stored frame, gathered while a detector reads the pictures."""

    def __init__(self, small_pictures: Pictures | None = None):
        self.small = small_pictures
        self.clock: Fraction | None = None
        self.searched = True
        self.ticks = array("q")  # of every frame, and of the end
        self.seconds = array("d")
        self.luma = array("f")
        self.motion = array("f")
        self.brightest = Brightest()
        self._hashes = bytearray()

    def watch(self, file: Path, size: tuple[int, int]) -> Iterator[Picture]:
        recent: deque[tuple[Fraction, np.ndarray]] = deque()
        to_picture, before, end, stop = small(size), Fraction(-1), Fraction(0), 0
        to_rgb = ToRGB()
        for frame in checked(file, stored(file)):
            picture = to_picture(frame)
            grey = picture.astype(np.float32).mean(-1)
            recent.append((frame.start, grey))
            while len(recent) > 1 and recent[1][0] <= frame.start - MOTION:
                recent.popleft()
            self.clock = frame.clock
            self.searched &= frame.timed and frame.start > before
            first, own_stop = ticks(frame)
            self.ticks.append(first)
            self.seconds.append(float(frame.start))
            self.luma.append(grey.mean())
            self.motion.append(np.abs(grey - recent[0][1]).mean())
            self._hashes += _hash(grey)
            self.brightest.see(frame.start, partial(_whole, frame, to_rgb))
            if self.small:
                self.small.see(len(self.luma) - 1, frame)
            before, end, stop = frame.start, max(end, frame.end), max(stop, own_stop)
            yield picture
        self.ticks.append(stop)
        self.seconds.append(float(end))

    def between(self, cuts: Cuts) -> list[DetectedShot]:
        """The shots that begin at `cuts`, from the first frame to the last."""
        count = len(self.luma)
        starts: Sequence[float] | np.ndarray = cuts.starts
        if cuts.unit != "frames":
            scale = self.seconds[-1] if cuts.unit == "fractions" else 1.0
            # Half a millisecond: times are written with few digits.
            starts = np.searchsorted(
                np.asarray(self.seconds[:-1]), np.asarray(starts) * scale - 5e-4
            )
        edges = sorted({0, count, *(int(start) for start in starts if 0 < start < count)})
        return [DetectedShot(a, b) for a, b in zip(edges[:-1], edges[1:])]

    def shot(self, shot: DetectedShot, seen: float) -> Row:
        """A shot's row; `seen` is the part of the pictures that is not in bars."""
        a, b = shot.start, shot.end
        # A frame is compared with one of a quarter of a second ago: is that of this shot?
        settled = [
            n for n in range(a, b) if self.seconds[n] >= self.seconds[a] + float(MOTION) - 1e-9
        ]
        at = [a + int(place * (b - a)) for place in HASHED]
        return {
            "first": self.ticks[a],
            "stop": self.ticks[b],
            "luma": round(float(np.mean(self.luma[a:b])) / seen, 3),
            "motion": round(float(np.mean([self.motion[n] for n in settled])) / seen, 3)
            if settled
            else 0,
            "hashes": [self._hashes[HASH_BYTES * n : HASH_BYTES * (n + 1)].hex() for n in at],
        }


def _whole(frame: Stored, to_rgb: ToRGB) -> np.ndarray:
    return np.asarray(upright(frame, to_rgb).image)


def _hash(grey: np.ndarray) -> bytes:
    """256 bits: whether the picture grows brighter from each place to the next on its right.

    By more than a level: the noise of a codec is less.
    """
    image = Image.fromarray(grey).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    levels = np.asarray(image)
    return np.packbits(levels[:, 1:] > levels[:, :-1] + 1).tobytes()
