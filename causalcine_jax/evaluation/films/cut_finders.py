"""What finds cuts: our detector without a network, or a shot detector of data/video."""

from collections.abc import Sequence
from pathlib import Path

from causalcine_jax.data.video.shots import DetectedShot, shot_detector
from causalcine_jax.evaluation.films.measure import CutFinder, pixel_cuts


def cut_finder(name: str, weights: Path | None = None) -> CutFinder:
    """The finder called pixels, transnet or scenedetect. Raises as `shot_detector` does."""
    if name == "pixels":
        return pixel_cuts
    detector = shot_detector(name, weights)
    return lambda frames: cuts_between(detector(frames))


def cuts_between(shots: Sequence[DetectedShot]) -> list[int]:
    """The cuts between shots. Of a gradual transition, which is in no shot, the middle frame."""
    return [(before.end + after.start + 1) // 2 for before, after in zip(shots, shots[1:])]
