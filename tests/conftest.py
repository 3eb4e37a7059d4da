"""Every test runs on the CPU path, in full float32, with modules as plain trees (the coming default of flax NNX)."""

import os

# Tests compile many small programs and run each once: compile quickly rather than well.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax  # noqa: E402  (the flags above are read when jax starts)
import pytest  # noqa: E402
from flax import nnx  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _numerics_and_tree_mode():
    jax.config.update("jax_default_matmul_precision", "highest")
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
