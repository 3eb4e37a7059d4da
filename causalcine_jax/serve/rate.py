"""How often a client may ask: over its socket, and by HTTP for what costs work."""

import asyncio
import functools
import time
from collections.abc import Callable

from starlette.requests import Request

from causalcine_jax.serve.protocol import Refused

LONGEST_WAIT = 2.0  # seconds that a request waits for its turn
MOST_CLIENTS = 1024  # that are remembered; whoever asked longest ago is forgotten first


class Rate:
    """Counts requests of one client; a burst of two seconds' worth is free."""

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic):
        self.per_second, self._now = per_second, now
        self._left, self._at = 2 * per_second, now()

    def count(self, longest_wait: float = 0.0) -> float:
        """Seconds until a request is within the rate; it counts up to longest_wait."""
        now = self._now()
        self._left = min(2 * self.per_second, self._left + (now - self._at) * self.per_second)
        self._at = now
        wait = max(0.0, (1 - self._left) / self.per_second)
        if wait <= longest_wait:
            self._left -= 1
        return wait


class ClientRates:
    """A rate per address and film: all clients show the same token, and pages ask for pictures."""

    def __init__(self, per_second: float):
        self._per_second = per_second
        self._of = functools.lru_cache(MOST_CLIENTS)(lambda address, film: Rate(per_second))

    async def turn(self, request: Request) -> None:
        """Waits until the client may ask. `Refused` if that would take too long."""
        address = request.client.host if request.client else ""
        wait = self._of(address, request.path_params.get("session", "")).count(LONGEST_WAIT)
        if wait > LONGEST_WAIT:
            told = f"at most {self._per_second:g} requests a second"
            raise Refused("too_many", told, None, retryable=True, retry_after_s=LONGEST_WAIT)
        await asyncio.sleep(wait)
