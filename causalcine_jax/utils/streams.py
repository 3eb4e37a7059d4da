"""stdout and stderr whose reader may go away: a closed terminal, `| head`, a full disk."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class LastingStream:
    """A text stream that drops what can no longer be written, so that no work ends for a message.

    After the first fault its file is the null device, or Python would fail once more at its exit.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            drop(self._stream)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_stderr() -> Iterator[None]:
    """Inside, messages to a stderr that is gone are dropped."""
    if sys.stderr is None:  # closed before the start
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            yield
        return
    with contextlib.redirect_stderr(LastingStream(sys.stderr)):
        yield


def flush_stdout() -> None:
    """Writes what stdout still holds.

    Raises:
      OSError: it cannot be written. What is left is dropped then, and Python's exit is quiet.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        drop(sys.stdout)
        raise


def drop(stream: TextIO) -> None:
    """Makes the null device the stream's file, if it has one."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
