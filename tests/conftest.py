"""Every test runs in full float32, with modules as plain trees; on the CPU, but for `-m gpu`.

Tree mode is the coming default of flax NNX.
"""

import gc
import os
import sys

from compile_settings import set_up

# Processes of xdist have what the first one set, but not its words.
if "PYTEST_XDIST_WORKER" not in os.environ:
    set_up(sys.argv[1:])
# Several test processes share a GPU, if there is one: none may take most of it at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# test_target_programs.py compiles for GPUs that are not here. Their plugin would refuse to load.
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import pytest
from bounded_memory import forget_programs
from flax import nnx

from benchmarks.chromium import chromium, missing_browser
from causalcine_jax.utils.compile_cache import keep_compiled

# For this process and those that tests start, now and later: each program is compiled once.
keep_compiled()
# Tracing makes many objects, and nearly all of them live until it ends: look for garbage seldom.
gc.set_threshold(50_000, 20, 10)


def pytest_addoption(parser):
    parser.addoption("--pictures", metavar="DIR", help="where the desk's pictures go, as of docs/")


@pytest.fixture(autouse=True, scope="session")
def _tree_mode():
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    yield
    forget_programs()


@pytest.fixture(scope="module")  # while it is open, no other test may run an event loop
def browser():
    """Chromium; skips where it, or Playwright, is missing."""
    if lacks := missing_browser():
        pytest.skip(lacks)
    with chromium() as shown:
        yield shown


def pytest_collection_finish():
    gc.freeze()  # what was imported stays


def pytest_collection_modifyitems(items):
    if jax.default_backend() != "gpu":
        skip = pytest.mark.skip(
            reason=f"needs an NVIDIA GPU and -m gpu: jax runs on {jax.default_backend()} here"
        )
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold parameters' names too
                item.add_marker(skip)
