"""SIGTERM and Ctrl-C as a request to stop.

The step in progress is finished and saved, then the process ends with exit code 75. With several
processes, the one that is asked tells all others (`gathering.any_process`).
"""

import signal
from types import FrameType

from causalcine_jax.errors import StoppedEarly
from causalcine_jax.utils.interrupts import SIGNALS, handled, importing, send_again


class StopRequest:
    """Inside its `with`, the first SIGTERM or SIGINT sets `asked`; the same again ends the process.

    While `immediate` is true, no work can be lost, so the first one raises `StoppedEarly`.
    """

    def __init__(self):
        self.asked = False
        self.immediate = True
        self._before = {}

    def __enter__(self) -> "StopRequest":
        try:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        except ValueError:  # not the main thread, whose owner decides about signals
            self._before = {}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        handled(number)
        if self.immediate and importing(frame):
            return send_again(number)
        if self.immediate:
            raise StoppedEarly("stopped before the first step; the same command begins again")
        self.asked = True
        signal.signal(number, self._before[number])
