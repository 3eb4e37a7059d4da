"""How much moves: shown beside consistency, which a still picture wins.

Frames are averaged over a grid of cells, which hides grain. The change is the mean absolute
difference in luma between two successive frames of one shot, per second.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from causalcine_jax.evaluation.metrics.cut_detector import shrink

GRID = (24, 40)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luma_cells(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "24 40"]:
    height, width, _ = frame.shape
    grid = (min(GRID[0], height), min(GRID[1], width))
    return shrink(frame[None], grid)[0] @ _LUMA


def dynamics(
    cells: Float[np.ndarray, "t y x"], times: Float[np.ndarray, " t"], shots: Sequence[range]
) -> list[float | None]:
    """Grey levels per second in every shot; None for a shot of fewer than two frames."""
    change = np.abs(np.diff(cells, axis=0)).mean(axis=(1, 2)) / np.maximum(np.diff(times), 1e-6)
    return [
        float(change[shot.start : shot.stop - 1].mean()) if len(shot) > 1 else None
        for shot in shots
    ]
