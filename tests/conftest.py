"""Every test runs on the CPU path, in full float32, with modules as plain trees (the coming default of flax NNX)."""

import os

# Tests compile many small programs and run each once: compile quickly rather than well.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# Several test processes share a GPU, if there is one: none may take most of it at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# GPUs that are not here are compiled for (test_target_programs.py): their plugin, where it is installed, would else leave because it sees none.
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import pytest
from flax import nnx

from causalcine_jax.utils.compile_cache import keep_compiled

# For this process and those that tests start: what one has compiled, no other does, nor a later run.
keep_compiled()


@pytest.fixture(autouse=True, scope="session")
def _numerics_and_tree_mode():
    jax.config.update("jax_default_matmul_precision", "highest")
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)


def pytest_collection_modifyitems(items):
    if jax.default_backend() != "gpu":
        skip = pytest.mark.skip(
            reason=f"needs an NVIDIA GPU, jax runs on {jax.default_backend()} here"
        )
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
