"""Ctrl-C, SIGTERM and SIGHUP in a command: never a traceback, never lost.

    process starts --end_quietly--> its modules are imported --terminable--> the command runs

Python runs signal handlers between any two steps of the main thread. An exception raised there is
lost or becomes another one in two places: in destructors and callbacks of the garbage collector,
and in imports, whose C code turns it into an ImportError. In both places the signal is sent again.

SIGHUP, which comes when a connection drops, becomes a SIGTERM. So whoever handles that one, such as
training or a server, handles both. After `nohup` it is ignored, and stays so.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SOON, AGAIN = 0.01, 0.2  # seconds
_handled: dict[int, int] = dict.fromkeys(SIGNALS, 0)  # how often a handler of ours ran
_IMPORTS = "<frozen importlib._bootstrap>"


def end_quietly() -> None:
    """From now on a signal ends the process with exit code 128 + its number, and one word.

    For a process that has not begun to work. An ignored signal stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    _hear_hang_ups()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise KeyboardInterrupt(number), after an import in progress.

    An ignored signal stays ignored. In a thread other than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outside = _imports(sys._getframe())

    def stop(number: int, frame: FrameType | None) -> None:
        handled(number)
        if _imports(frame) > outside:
            send_again(number)
        else:
            raise KeyboardInterrupt(number)

    def dropped(what) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            return hook(what)
        given = what.exc_value.args if what.exc_value else ()
        send_again(given[0] if given and isinstance(given[0], int) else signal.SIGINT)

    ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, stop) for number in ours}
    before |= _hear_hang_ups()
    hook = sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        if sys.unraisablehook is dropped:
            sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear_hang_ups() -> dict[int, Any]:
    """From now on a SIGHUP is a SIGTERM; returns the handler before, by number."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return {}
    hung_up = lambda number, frame: signal.raise_signal(signal.SIGTERM)
    return {signal.SIGHUP: signal.signal(signal.SIGHUP, hung_up)}


def importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported at `frame`, which a signal handler is given."""
    return _imports(frame) > 0


def handled(number: int) -> None:
    """Every handler of ours calls it, so that `send_again` knows that its signal arrived."""
    _handled[number] += 1


def send_again(number: int) -> None:
    """Sends this process a signal again, soon, unless the command is over by then.

    It is repeated until a handler runs. A signal that comes just before the main thread begins to
    wait does not end that wait, and its handler would run only afterwards.
    """
    before = _handled[number]

    def send() -> None:
        time.sleep(SOON)
        while _handled[number] == before:
            handler = signal.getsignal(number)  # may be another one of the command's
            if not callable(handler) or handler is signal.default_int_handler:
                return
            os.kill(os.getpid(), number)
            ours = __package__.partition(".")[0]
            if not getattr(handler, "__module__", "").startswith(ours):
                return  # a server's handler, for example, takes a second signal for impatience
            time.sleep(AGAIN)

    # A threading.Thread takes locks that the interrupted code may hold.
    _thread.start_new_thread(send, ())


@contextlib.contextmanager
def children_without_ctrl_c() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, not while they import either.

    Their parent ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _imports(frame: FrameType | None) -> int:
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == _IMPORTS
        frame = frame.f_back
    return count
