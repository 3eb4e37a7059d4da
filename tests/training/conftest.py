"""What tests of training share."""

import pytest

from causalcine_jax.training import loop


@pytest.fixture
def no_picture(monkeypatch):
    """Runs do not draw their loss, which takes longer than a toy's run."""
    monkeypatch.setattr(loop, "draw_loss_curve", lambda out: None)
