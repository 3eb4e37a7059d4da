"""What annotations call an array, of numpy or of jax; and how many bytes arrays take."""

from typing import Any

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray


def tree_bytes(tree: Any) -> int:
    """Bytes of a pytree's arrays, or of their shapes, on all devices together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
