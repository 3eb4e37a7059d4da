"""How long work shows that it goes on: a bar on stderr with the time left, the same everywhere."""

import sys
import time
from collections import deque
from collections.abc import Iterable

from tqdm import tqdm

SECONDS, SECONDS_IN_LOG = 0.2, 20.0  # between two looks of a bar; in a log each look stays
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}, {rate_fmt}{postfix}]"


def progress_bar(
    total: int,
    unit: str,
    what: str | None = None,
    *,
    done: int = 0,
    shown: bool = True,
    over: Iterable | None = None,
) -> tqdm:
    """A bar of `total` units of work, of which `done` are there already.

    A context manager with `update(n)`, or with `over` an iterator over that.
    """
    seconds = SECONDS if sys.stderr.isatty() else SECONDS_IN_LOG
    return tqdm(
        over,
        what,
        total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        disable=not shown,
        mininterval=seconds,
        maxinterval=max(seconds, 10.0),
        smoothing=0.05,
        bar_format=BAR,
    )


class Pace:
    """The time left of `total` units, for work that shows lines and no bar.

    It is estimated from the wall time of the newest MARKS calls, so all that happens in between
    counts. `done` units were there when the clock was started.
    """

    MARKS = 20

    def __init__(self, total: int, done: int):
        self._total = total
        self._marks = deque([(done, time.perf_counter())], self.MARKS)

    def left(self, done: int) -> str:
        """Such as ETA 01:05, now that `done` units are there; "" before the first of them."""
        now = time.perf_counter()
        (before, then), *_ = self._marks
        self._marks.append((done, now))
        if done == before:
            return ""
        return time_left((now - then) / (done - before) * (self._total - done))


def time_left(seconds: float) -> str:
    """Such as ETA 01:05, as a bar says it."""
    return f"ETA {tqdm.format_interval(seconds)}"
