"""The one thread that uses the device. Who waits takes turns, one chunk each.

    await worker.turn("a session's id", work)       the result of work(), run on that thread

Of the sessions that wait, the one that has used the device least is next (start-time fair
queueing). A session that did not wait must not save up time for later. So a new or returning
session starts with the use of the session that runs.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

LONGEST_TURN = 20.0  # seconds that `close` waits for; a model that compiles may take longer


@dataclass
class _WaitingTurn:
    who: str
    work: Callable[[], Any]
    done: asyncio.Future
    loop: asyncio.AbstractEventLoop
    level: float  # of use, when it was asked


class Worker:
    """Starts its thread; `close` ends it after the turn that runs.

    device_context  makes the context that the thread runs in
    """

    def __init__(
        self, device_context: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    ):
        self._asked: list[_WaitingTurn] = []
        self._used: dict[str, float] = {}  # seconds of the device by user, from their level on
        self._runs: str | None = None  # the user whose turn it is
        self._level = 0.0  # of the turn that runs, or ran last
        self._wake, self._closed = threading.Condition(), False
        self._thread = threading.Thread(
            target=self._run, args=(device_context,), name="device", daemon=True
        )
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Turns that wait for the device."""
        return len(self._asked)

    @property
    def users(self) -> set[str]:
        """Who uses the device now, or waits for it."""
        with self._wake:
            return {asked.who for asked in self._asked} | ({self._runs} if self._runs else set())

    async def turn(self, who: str, work: Callable[[], Any]) -> Any:
        """Runs `work` when it is the turn of `who`; returns its result or raises its error."""
        loop = asyncio.get_running_loop()
        with self._wake:
            asked = _WaitingTurn(who, work, loop.create_future(), loop, self._level)
            self._asked.append(asked)
            self._wake.notify()
        return await asked.done

    def leave(self, who: str) -> None:
        """Forgets a user that takes no more turns."""
        with self._wake:
            self._used.pop(who, None)

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(LONGEST_TURN)

    def _run(self, device_context: Callable[[], AbstractContextManager[None]]) -> None:
        with device_context():
            self._take_turns()

    def _take_turns(self) -> None:
        while True:
            with self._wake:
                while not self._asked and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                # The first of equals has waited longest.
                asked = min(self._asked, key=self._level_of)
                self._asked.remove(asked)
                self._runs = asked.who
                level = self._level = self._level_of(asked)
            begun = time.perf_counter()
            if asked.done.cancelled():
                self._runs = None
                continue
            try:
                result, error = asked.work(), None
            except BaseException as raised:
                result, error = None, raised
            with self._wake:
                self._used[asked.who] = level + time.perf_counter() - begun
                self._runs = None
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                asked.loop.call_soon_threadsafe(_settle, asked.done, result, error)
            del asked, result, error  # a director may be among them, with its pool

    def _level_of(self, asked: _WaitingTurn) -> float:
        return max(asked.level, self._used.get(asked.who, 0.0))


def _settle(done: asyncio.Future, result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if isinstance(error, StopIteration):  # a Future refuses it
        error = RuntimeError("the film has no chunk left")
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
