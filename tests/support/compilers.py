"""Marks tests that compile for hardware that is not present."""

import importlib.util

import pytest

from causalcine_jax.planning.hardware import INSTALL


def needs(platform: str):
    """Skips where the compiler for `platform` (tpu or gpu) is not installed, with the command."""
    module, install = INSTALL[platform]
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    return pytest.mark.skipif(missing, reason=f"needs {module}: {install}")
