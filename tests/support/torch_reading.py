"""Reads handmade .pt files, or expects one short error."""

import numpy as np
import pytest
from torch_archives import tensor

from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError

NUMBERS = np.arange(24, dtype=np.float32)


FLOATS = "torch.FloatStorage"


def read(file):
    with open_tensors(file) as tensors:
        return {key: np.array(tensors.read(key)) for key in tensors.shapes}


def refused(file, message):
    with pytest.raises(DataError, match=message) as error:
        read(file)
    assert (
        str(error.value).startswith(str(file))
        and "\n" not in str(error.value)
        and len(str(error.value)) < len(str(file)) + 500
    )


WEIGHT = tensor(FLOATS, "0", 24)
