"""The one thread that uses the device. Who waits takes turns, one chunk each.

    await worker.turn("a session's id", work)       the result of work(), run on that thread

Fair: the turn goes to whoever has used the device least among those who wait. A newcomer starts
level with the least user of those present, so that it cannot take the device for itself.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_TURN = 20.0  # seconds that `close` waits for; a model that compiles may take longer


@dataclass
class _Asked:
    who: str
    work: Callable[[], Any]
    done: asyncio.Future
    loop: asyncio.AbstractEventLoop


class Worker:
    """Starts its thread; `close` ends it after the turn that runs."""

    def __init__(self):
        self._asked: list[_Asked] = []
        self._used: dict[str, float] = {}  # seconds of the device, by user
        self._wake, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Turns that wait for the device."""
        return len(self._asked)

    def used(self, who: str) -> float:
        """Seconds of the device that `who` has used, counted from its first turn."""
        return self._used.get(who, 0.0)

    async def turn(self, who: str, work: Callable[[], Any]) -> Any:
        """Runs `work` when it is the turn of `who`; returns its result or raises its error."""
        loop = asyncio.get_running_loop()
        asked = _Asked(who, work, loop.create_future(), loop)
        with self._wake:
            self._used.setdefault(who, min(self._used.values(), default=0.0))
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

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._asked and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                # The first of equals has waited longest.
                asked = min(self._asked, key=lambda each: self._used.get(each.who, 0.0))
                self._asked.remove(asked)
            begun = time.perf_counter()
            if asked.done.cancelled():
                continue
            try:
                result, error = asked.work(), None
            except BaseException as raised:
                result, error = None, raised
            with self._wake:
                if asked.who in self._used:
                    self._used[asked.who] += time.perf_counter() - begun
            asked.loop.call_soon_threadsafe(_settle, asked.done, result, error)
            del asked, result, error  # a director may be among them, with its pool


def _settle(done: asyncio.Future, result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if isinstance(error, StopIteration):  # a Future refuses it
        error = RuntimeError("the film has no chunk left")
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
