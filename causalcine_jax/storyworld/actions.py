"""The six actions as poses over time.

Every action starts at phase 0 and repeats slowly, so that 3 latent frames show it.
"""

import numpy as np

from causalcine_jax.clock import FPS
from causalcine_jax.storyworld.characters import Pose

PERIOD = 1.5  # seconds


def pose(action: str, frames: np.ndarray, facing: float, size: str) -> Pose:
    """Returns the pose at each of `frames`.

    Args:
      action: one of world.ACTIONS.
      frames: [T], counted from the start of the shot.
      facing: 1 to the right, -1 to the left.
      size: one of world.SIZES.
    """
    phase = 2 * np.pi * np.asarray(frames, np.float64) / (FPS * PERIOD)
    swing, bounce = np.sin(phase), 0.5 - 0.5 * np.cos(2 * phase)
    hop = 0.5 - 0.5 * np.cos(2 * np.pi * np.asarray(frames, np.float64) / FPS)
    if action == "walk":
        return Pose(
            dy=-0.05 * bounce,
            lean=0.07 * facing,
            left_leg=0.6 * swing,
            right_leg=-0.6 * swing,
            left_arm=0.45 + 0.4 * swing,
            right_arm=0.45 - 0.4 * swing,
            head_tilt=0.05 * swing,
            gaze=facing * 0.8,
        )
    if action == "jump":
        lift = {"wide": 0.28, "medium": 0.15, "close-up": 0.06}[size]  # hats stay in the frame
        return Pose(
            dy=-lift * hop,
            stretch=1.04 - 0.10 * (1.0 - hop) ** 2,
            left_arm=0.5 + 1.5 * hop,
            right_arm=0.5 + 1.5 * hop,
        )
    if action == "wave":
        return Pose(
            left_arm=0.3, right_arm=2.0 + 0.55 * np.sin(1.5 * phase), head_tilt=-0.10, gaze=0.25
        )
    if action == "dance":
        sway = swing * (0.65 if size == "close-up" else 1.0)
        return Pose(
            dx=0.11 * sway,
            dy=-0.06 * bounce,
            lean=0.20 * sway,
            left_arm=1.9 + 0.7 * swing,
            right_arm=1.9 - 0.7 * swing,
            head_tilt=-0.22 * swing,
            left_leg=0.3 * swing,
            right_leg=0.3 * swing,
        )
    if action == "sleep":
        breath = 0.012 * np.sin(phase)
        return Pose(
            # A close-up stays nearly level, or its frame would cut off the neck.
            sink=-0.02 if size == "close-up" else 0.13,
            stretch=1.0 + breath,
            head_tilt=0.26 * facing + breath,
            head_y=0.05,
            head_x=0.03 * facing,
            left_leg=1.25,
            right_leg=-1.25,
            left_arm=0.1,
            right_arm=0.1,
            asleep=True,
        )
    side = np.tanh(2.2 * swing) / np.tanh(2.2)
    return Pose(head_x=0.05 * side, gaze=1.15 * side, head_tilt=0.09 * side)
