"""Marks tests that compile for hardware that is not present."""

import pytest

from causalcine_jax.planning.compilers import INSTALL, installed


def needs(platform: str):
    """Skips where the compiler for `platform` (tpu or gpu) is not installed, with the command."""
    module, install = INSTALL[platform]
    return pytest.mark.skipif(not installed(platform), reason=f"needs {module}: {install}")
