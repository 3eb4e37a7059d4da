"""Finds the shot of another video whose embedding is like a shot's: all of them are compared.

    embeddings of a video's shots x those of BLOCK shots before -> cosines -> the first that is high

Full blocks are on the device, two bytes a number: 1,536 bytes a shot for a ViT-B. All shots of a
video are compared at once, because shots of one video are not compared with each other.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int, Int32

from causalcine_jax.utils.arrays import AnyArray

BLOCK = 4096  # shots: a product needs little memory beside them
AT_ONCE = 64  # shots that are compared with a block in one product
EMPTY = -1  # in place of a video's number: a row without a shot

Embedding = Float16[np.ndarray, " d"]


class EmbeddingIndex:
    """Embeddings of shots, in the order in which they were added.

    Args:
      least: two shots are the same if their cosine is at least that.
    """

    def __init__(self, least: float):
        self._least = least
        self._blocks: list[tuple[Float16[AnyArray, "n d"], Int32[np.ndarray, " n"]]] = []
        self._count = 0  # of all shots

    def first_like(
        self, shots: Mapping[int, Embedding], video: int
    ) -> dict[int, tuple[int, float]]:
        """For each of a video's `shots` the first one of another video that is the same.

        Returns:
          the number of that video, and the cosine; shots that are like none are left out.
        """
        found: dict[int, tuple[int, float]] = {}
        names = list(shots)
        for start in range(0, len(names), AT_ONCE):
            asked = names[start : start + AT_ONCE]
            queries = np.stack([shots[name] for name in asked])
            queries = np.pad(queries, ((0, AT_ONCE - len(asked)), (0, 0)))
            for block, videos in self._blocks:
                like, first, cosine = map(
                    np.asarray, _first(block, videos, queries, video, self._least)
                )
                for n in np.flatnonzero(like[: len(asked)]):
                    found.setdefault(asked[n], (int(videos[first[n]]), float(cosine[n])))
                if found.keys() >= set(asked):
                    break
        return found

    def add(self, shot: Embedding, video: int) -> None:
        row = self._count % BLOCK
        if row == 0:
            empty = np.zeros((BLOCK, len(shot)), np.float16)
            self._blocks.append((empty, np.full(BLOCK, EMPTY, np.int32)))
        block, videos = self._blocks[-1]
        assert isinstance(block, np.ndarray)
        block[row], videos[row] = shot, video
        self._count += 1
        if row == BLOCK - 1:
            self._blocks[-1] = jnp.asarray(block), videos


@jax.jit
def _first(
    block: Float16[AnyArray, "n d"],
    videos: Int32[AnyArray, " n"],
    queries: Float16[AnyArray, "m d"],
    video: Int[AnyArray, ""],
    least: Float[AnyArray, ""],
) -> tuple[Bool[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
    """Whether a query is like a row of another video; the first such row, and its cosine."""
    block, queries = (jnp.asarray(each, jnp.float32) for each in (block, queries))
    cosines = jnp.einsum("nd,md->nm", block, queries, precision="highest")
    other = (videos != EMPTY) & (videos != video)
    like = (cosines >= least) & other[:, None]
    first = jnp.argmax(like, axis=0)
    return like.any(axis=0), first, jnp.take_along_axis(cosines, first[None], axis=0)[0]
