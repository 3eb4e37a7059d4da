"""Where a player is: what it reports, or the clock where it reports nothing."""

import time
from collections.abc import Callable

SILENT = 3.0  # seconds without a report, after which the clock counts


class Playback:
    """Position in seconds of film. Without reports it runs in real time, up to what was made."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._at, self._since, self._reported = 0.0, now(), False

    def report(self, position_s: float) -> None:
        self._at, self._since, self._reported = position_s, self._now(), True

    def position(self, made_s: float) -> float:
        """The position, when `made_s` seconds of film exist."""
        elapsed = self._now() - self._since
        if self._reported and elapsed <= SILENT:
            return min(self._at, made_s)
        at = min(self._at + elapsed, made_s)
        self._at, self._since, self._reported = at, self._now(), False
        return at

    def jump(self, position_s: float) -> None:
        """The film goes on from an earlier or later place."""
        self._at, self._since = position_s, self._now()
