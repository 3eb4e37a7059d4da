"""This machine's CPU as a target for plans."""

import jax
import pytest

from causalcine_jax.planning import hardware as targets
from causalcine_jax.planning.hardware import Chip


@pytest.fixture
def here(monkeypatch):
    """This machine's CPU as hardware to plan for."""
    monkeypatch.setitem(targets.CHIPS, "here", Chip("gpu", 10**9, 1e12, 1e11, 1e10, ("1x1",)))
    monkeypatch.setattr(targets, "target_devices", lambda where: jax.devices()[:1])
