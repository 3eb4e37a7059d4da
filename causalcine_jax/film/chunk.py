"""What comes out of a director. It needs no jax, so that the desk's mock makes it as well."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.story import ResolvedShot


@dataclass(frozen=True)
class Chunk:
    """A chunk of the film.

    frames     9 (the first chunk) or 12 video frames; 4 n, and 4 n - 3 in the first, for chunks of
               n latent frames
    index      place among the film's chunks, from 0
    shot       the shot it belongs to, on the chunk grid
    retrieved  per layer, the film's latent frames that memory retrieved, newest first; -1 for none
    seconds    spent on denoise, commit and decode
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    index: int
    shot: ResolvedShot
    retrieved: Int[np.ndarray, "l k"]
    seconds: dict[str, float]

    @property
    def is_cut(self) -> bool:
        """A new shot begins here (the film's beginning is no cut)."""
        return self.index > 0 and self.index == self.shot.first_chunk


def most_retrieved(retrieved: Int[np.ndarray, "l k"], most: int) -> list[tuple[int, float]]:
    """The latent frames that most layers retrieved, each with the share of layers that did."""
    votes = Counter(frame for layer in retrieved.tolist() for frame in {*layer} if frame >= 0)
    return [(frame, round(count / len(retrieved), 4)) for frame, count in votes.most_common(most)]


def frame_of_latent(latent: int) -> int:
    """The video frame that stands for a latent frame: the last of its four."""
    return TEMPORAL_STRIDE * latent
