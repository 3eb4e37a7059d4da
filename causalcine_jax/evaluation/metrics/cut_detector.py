"""Finds hard cuts in the pixels of a film, without a network.

Frames are shrunk to a coarse grid of luma and chroma, which averages out grain,
anti-aliasing and fine motion. The change at frame t is between the two frames before t and
the two from t on, in the median cell. A moving figure changes only the cells that it covers,
and a cut that a decoder smeared over a frame still peaks at one t.
A cut is a local maximum above a threshold that adapts to its neighbourhood: camera moves
change every frame about equally, but a cut changes one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

_YCBCR = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]], np.float32)


@dataclass(frozen=True)
class CutDetector:
    """The threshold at a frame is floor + ratio * the median change around it.

    floor          grey levels, summed over luma and twice the two chromas. StoryWorld's cuts
                   change 50 and more; its liveliest motion is 13 above its surroundings
    neighbourhood  frames to each side for the median
    spacing        of two cuts closer than this, the weaker is dropped
    """

    floor: float = 25.0
    ratio: float = 3.0
    neighbourhood: int = 8
    spacing: int = 5
    grid: tuple[int, int] = (6, 10)

    def __call__(self, video: UInt8[np.ndarray, "t h w 3"]) -> list[int]:
        """Returns the first frames of new shots, ascending, each in 1..t-1."""
        return self.of_cells(shrink(video, self.grid))

    def of_cells(self, cells: Float[np.ndarray, "t gh gw 3"]) -> list[int]:
        """`__call__` for frames that `shrink` averaged over the grid already."""
        change = self._change(cells)
        cuts: list[int] = []
        for t in np.argsort(-change, kind="stable"):
            distance = np.abs(np.arange(change.size) - t)
            around = change[(distance > 2) & (distance <= self.neighbourhood)]
            threshold = self.floor + self.ratio * (np.median(around) if around.size else 0.0)
            if change[t] > threshold and all(abs(t - cut) >= self.spacing for cut in cuts):
                cuts.append(int(t))
        return sorted(cuts)

    def _change(self, cells: Float[np.ndarray, "t gh gw 3"]) -> Float[np.ndarray, " t"]:
        """Returns the median cell's change from t-2, t-1 to t, t+1, per frame t; 0 at t = 0."""
        cells = cells @ _YCBCR * np.array([1, 2, 2], np.float32)
        ahead = (cells + np.concatenate([cells[1:], cells[-1:]])) / 2
        behind = (cells + np.concatenate([cells[:1], cells[:-1]])) / 2
        change = np.zeros(len(cells), np.float32)
        if len(cells) > 1:
            change[1:] = np.median(np.abs(ahead[1:] - behind[:-1]).sum(axis=-1), axis=(1, 2))
        return change


def shrink(
    video: UInt8[np.ndarray, "t h w 3"], grid: tuple[int, int]
) -> Float[np.ndarray, "t gh gw 3"]:
    """Averages over a `grid` of cells, which need not divide the height and width evenly."""
    _, height, width, _ = video.shape
    rows = np.linspace(0, height, grid[0] + 1).astype(int)
    columns = np.linspace(0, width, grid[1] + 1).astype(int)
    sums = np.add.reduceat(
        np.add.reduceat(video.astype(np.float32), rows[:-1], axis=1), columns[:-1], axis=2
    )
    return sums / (np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None])
