"""When a session ends by itself: at its greatest age, or after a while without clients."""

import time

from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.server_messages import EndReason


class Age:
    """Begins now; `seen` says that a client is there."""

    def __init__(self):
        self._begun = self._seen = time.monotonic()

    def seen(self) -> None:
        self._seen = time.monotonic()

    def over(self, limits: SessionLimits, lasts: bool = False) -> tuple[EndReason, str] | None:
        """Why the session ends, and in words; None while it goes on. lasts: at any age."""
        now = time.monotonic()
        if now - self._begun > limits.lifetime_s and not lasts:
            return "lifetime", f"open for {limits.lifetime_s:g} s"
        if now - self._seen > limits.idle_s:
            return "idle", f"no client for {limits.idle_s:g} s"
        return None
