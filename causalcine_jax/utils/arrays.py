"""What annotations call an array, where numpy's will do as well as jax's."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
