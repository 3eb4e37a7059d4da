"""What tests of training share."""

import pytest

from causalcine_jax.training import loop


@pytest.fixture
def no_picture():
    """Runs do not draw their loss, which takes longer than a toy's run."""
    with pytest.MonkeyPatch.context() as patch:  # a test may undo its own
        patch.setattr(loop, "draw_loss_curve", lambda out: None)
        yield
