"""Every test runs on the CPU path, in full float32, with modules as plain trees (the coming default of flax NNX)."""

import jax
import pytest
from flax import nnx


@pytest.fixture(autouse=True, scope="session")
def _numerics_and_tree_mode():
    jax.config.update("jax_default_matmul_precision", "highest")
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
