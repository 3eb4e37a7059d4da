"""Where a player is: what it reports, or the clock where it reports nothing."""

import time
from collections.abc import Callable

SILENT = 3.0  # seconds without a report, after which the clock counts
DRY = 0.05  # seconds of film left in a player, with which it stands still
MARGIN, MOST_MARGIN = 0.15, 2.0  # seconds from a server's media to the player that shows it
EASED = 0.99  # of a raised margin, what is left after a chunk: half after 69, which is a minute


class Playback:
    """Position in seconds of film, up to what was made.

    A player that falls silent goes on as it last said: it plays in real time, or stands still.
    Until a first report it plays.

    margin  seconds that media need to reach this player: doubled when they needed longer, and
            eased back with every chunk, because a network that was slow once may be fast again
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._at, self._since, self._reported = 0.0, now(), False
        self._runs = True
        self._unless_reported: float | None = None  # where a new client is taken to be
        self.margin = MARGIN

    def report(self, position_s: float, playing: bool = False, late_s: float = 0.0) -> None:
        """Sets the reported position. late_s: seconds that it has waited for media already sent."""
        self._at, self._since, self._reported = position_s, self._now(), True
        self._runs, self._unless_reported = playing, None
        if late_s > self.margin:
            self.margin = min(2 * self.margin, MOST_MARGIN)

    def position(self, made_s: float) -> float:
        """The position, when `made_s` seconds of film exist."""
        elapsed = self._now() - self._since
        at = min(self._at + elapsed * self._runs, made_s)
        if self._reported and elapsed <= SILENT:
            return at
        if self._unless_reported is not None:
            at, self._runs, self._unless_reported = self._unless_reported, True, None
        self._at, self._since, self._reported = at, self._now(), False
        return at

    def joined(self, made_s: float) -> None:
        """Another client directs. If it does not report soon, it plays from the film's end."""
        if made_s > 0:
            self._at, self._since, self._reported = self.position(made_s), self._now(), True
            self._runs, self._unless_reported = False, made_s

    def left(self, made_s: float) -> None:
        """Nobody reports any more: those who watch play on, also where the director paused."""
        self._at, self._since, self._reported = self.position(made_s), self._now(), False
        self._runs, self._unless_reported = True, None

    def ease(self) -> None:
        """Lowers the margin, after a chunk."""
        self.margin = max(MARGIN, EASED * self.margin)

    def lead(self, chunk_seconds: float) -> float:
        """Seconds of film left to play when a chunk that takes `chunk_seconds` must begin.

        No more than needed, because film that is already made delays a new shot.
        """
        return chunk_seconds + self.margin

    def jump(self, position_s: float) -> None:
        """The film goes on from an earlier or later place."""
        self._at, self._since = position_s, self._now()
