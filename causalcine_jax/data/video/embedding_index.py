"""Finds the shot whose embedding is like another's: all kept ones are compared.

    embeddings of a video's shots x those of BLOCK others -> cosines -> the first that is high

All embeddings are on the device, two bytes a number: 1,536 bytes a shot for a ViT-B. All shots of
a video are compared at once, because shots of one video are not compared with each other.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from causalcine_jax.utils.arrays import AnyArray

BLOCK = 4096  # shots: a product needs little memory beside them
AT_ONCE = 64  # shots that are compared with a block in one product

Embedding = Float16[np.ndarray, " d"]


class EmbeddingIndex:
    """Embeddings of shots, which are rows.

    Args:
      embeddings: of every row; None for one without.
      least: two shots are the same if their cosine is at least that.
    """

    def __init__(self, embeddings: Iterable[Embedding | None], least: float):
        self._least = least
        self._blocks: list[tuple[Float16[Array, "n d"], Int[np.ndarray, " k"]]] = []
        told = ((row, own) for row, own in enumerate(embeddings) if own is not None)
        while some := list(islice(told, BLOCK)):
            rows, own = zip(*some)
            self._blocks.append((jnp.asarray(_padded(np.stack(own), BLOCK)), np.array(rows)))

    def first_like(
        self, shots: Mapping[int, Embedding], kept: Bool[np.ndarray, " rows"]
    ) -> dict[int, tuple[int, float]]:
        """For each of a video's `shots` the first of the `kept` rows that is the same.

        Returns:
          that row, and the cosine; shots that are like none are left out.
        """
        found: dict[int, tuple[int, float]] = {}
        names = list(shots)
        for start in range(0, len(names), AT_ONCE):
            asked = names[start : start + AT_ONCE]
            queries = _padded(np.stack([shots[name] for name in asked]), AT_ONCE)
            for block, rows in self._blocks:
                if not kept[rows].any():
                    continue
                like, first, cosine = map(
                    np.asarray, _first(block, _padded(kept[rows], BLOCK), queries, self._least)
                )
                for n in np.flatnonzero(like[: len(asked)]):
                    found.setdefault(asked[n], (int(rows[first[n]]), float(cosine[n])))
                if found.keys() >= set(asked):
                    break
        return found


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


@jax.jit
def _first(
    block: Float16[AnyArray, "n d"],
    kept: Bool[AnyArray, " n"],
    queries: Float16[AnyArray, "m d"],
    least: Float[AnyArray, ""],
) -> tuple[Bool[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
    """Whether a query is like a kept row; the first such row, and its cosine."""
    block, queries = (jnp.asarray(each, jnp.float32) for each in (block, queries))
    cosines = jnp.einsum("nd,md->nm", block, queries, precision="highest")
    like = (cosines >= least) & jnp.asarray(kept)[:, None]
    first = jnp.argmax(like, axis=0)
    return like.any(axis=0), first, jnp.take_along_axis(cosines, first[None], axis=0)[0]
