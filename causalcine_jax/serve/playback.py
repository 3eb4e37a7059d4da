"""Where a player is: what it reports, or the clock where it reports nothing."""

import time
from collections.abc import Callable

UNEVEN = 1.25  # by how much a chunk may be slower than the slowest of the last ones
SILENT = 3.0  # seconds without a report, after which the clock counts
DRY = 0.05  # seconds of film left in a player, with which it stands still
MARGIN, MOST_MARGIN = 0.35, 2.0  # seconds from a server's media to the player that shows it


class Playback:
    """Position in seconds of film. Without reports it runs in real time, up to what was made.

    margin  seconds that media need to reach this player; doubled when they needed longer
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._at, self._since, self._reported = 0.0, now(), False
        self._runs = True
        self.margin = MARGIN

    def report(self, position_s: float, playing: bool = False, late_s: float = 0.0) -> None:
        """Sets the reported position. late_s: seconds that it has waited for media already sent."""
        self._at, self._since, self._reported = position_s, self._now(), True
        self._runs = playing
        if late_s > self.margin:
            self.margin = min(2 * self.margin, MOST_MARGIN)

    def position(self, made_s: float) -> float:
        """The position, when `made_s` seconds of film exist."""
        elapsed = self._now() - self._since
        if self._reported and elapsed <= SILENT:
            return min(self._at + elapsed * self._runs, made_s)
        at = min(self._at + elapsed, made_s)
        self._at, self._since, self._reported = at, self._now(), False
        return at

    def lead(self, slowest: float) -> float:
        """Seconds of film left to play when a chunk that takes `slowest` seconds must begin.

        No more than needed, because film that is already made delays a new shot.
        """
        return UNEVEN * slowest + self.margin

    def jump(self, position_s: float) -> None:
        """The film goes on from an earlier or later place."""
        self._at, self._since = position_s, self._now()
