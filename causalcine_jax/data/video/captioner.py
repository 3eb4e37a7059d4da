"""Captions written by another program, or by a server (captioner_server.py).

    windows -> requests: the shots' times, and pictures of each
            -> answers: {"id", "global", "shots"}

A program reads requests as JSON lines on its standard input, and writes answers as JSON lines on
its standard output, in any order. What cannot be used is a reason, and its window is asked again at
the next run.

Pictures of a window lie on the disk until it is answered. So a program that reads on and on without
an answer is handed `CaptionerOptions.ahead` windows. Then its input ends, and it is started again
for the next ones: a program that reads all its input first needs no bound of its own.
"""

import contextlib
import itertools
import json
import math
import queue
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.captions import Captions, from_json, parse
from causalcine_jax.errors import DataError, UsageError, raise_faults, range_faults, shown

CAPTIONER_FAILED = "captioner failed"  # the kind of reason
MOST_AT_ONCE = 4096  # requests: each has a thread, and its pictures in memory
LEAST_TIMEOUT, MOST_TIMEOUT = 1e-3, 1e6  # seconds
LONGEST_LINE = 1 << 20  # characters of an answer
PROGRAM_TIMEOUT = 3600.0  # seconds
LEAST_AHEAD = 64  # windows: more than lie in a pipe, before a program that answers one by one
FIRST_ANSWER = 2.0  # seconds for it, once a program was handed all that it may have
PIPE_BYTES = 4096  # where the system allows it


@dataclass(frozen=True)
class CaptionerOptions:
    """How a captioner is asked.

    at_once  requests that a server has at the same time
    ahead    windows that a program may read before it answers one
    timeout  seconds in which a server answers, or a program writes something; None is
             SERVER_TIMEOUT or PROGRAM_TIMEOUT
    prompt   of a server, with {count} for the number of shots; None is ASK
    request  more fields of a request to a server; those of None are left out
    images   pictures of a window at most, but one per shot at least; None is three per shot
    """

    at_once: int = 4
    ahead: int = 256
    timeout: float | None = None
    prompt: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None

    def __post_init__(self):
        faults = [
            fault
            for name, value, least, most in (
                ("captioner_at_once", self.at_once, 1, MOST_AT_ONCE),
                ("captioner_ahead", self.ahead, LEAST_AHEAD, math.inf),
                ("captioner_images", self.images, 1, math.inf),
                ("captioner_timeout", self.timeout, LEAST_TIMEOUT, MOST_TIMEOUT),
            )
            if value is not None
            for fault in range_faults(name, value, least, most)
        ]
        if own := {"model", "messages", "stream"} & set(self.request):
            faults.append(f"captioner_request may not hold {', '.join(sorted(own))}")
        raise_faults("prepare", faults)


@dataclass(frozen=True)
class Request:
    """What is asked about one window.

    video   its file
    shots   start and end of each shot in the video, in seconds
    images  JPEG pictures of every shot
    """

    id: str
    video: Path
    shots: tuple[tuple[float, float], ...]
    images: list[list[bytes]]


Answer = tuple[str, Captions | Reason]
Captioner = Callable[[Iterable[Request]], Iterator[Answer]]


def by_command(command: str, options: CaptionerOptions = CaptionerOptions()) -> Captioner:
    """A captioner that runs `command`.

    Raises:
      UsageError: there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--captioner {shown(command)}: {error}") from None
    if not words:
        raise UsageError("--captioner needs a command")
    if shutil.which(words[0]) is None:  # told before the videos are read
        raise UsageError(f"--captioner {shown(words[0])} cannot be run: there is no such program")

    def answers(requests: Iterable[Request]) -> Iterator[Answer]:
        waiting = iter(requests)
        while (request := next(waiting, None)) is not None:
            one = _Round(words, itertools.chain([request], waiting), options)
            yield from one.answers()
            if not one.may_follow:
                return

    return answers


class _Round:
    """One run of the program: a thread hands it windows, another one reads what it writes.

    may_follow  whether it was handed all that it may have, and ended well
    """

    def __init__(self, words: list[str], requests: Iterator[Request], options: CaptionerOptions):
        self.may_follow = False
        self._words = words
        self._requests, self._timeout = requests, options.timeout or PROGRAM_TIMEOUT
        self._asked: dict[str, int] = {}
        self._room = threading.Semaphore(options.ahead)
        self._lines: queue.Queue[str | None] = queue.Queue(64)
        self._answered, self._full, self._over = False, False, False
        self._error: Exception | None = None

    def answers(self) -> Iterator[Answer]:
        code: int | None = None
        with tempfile.TemporaryDirectory(prefix="causalcine-") as folder:
            self._pictures, self._process = Path(folder), _started(self._words)
            writer = threading.Thread(target=self._write, daemon=True)
            writer.start()
            threading.Thread(target=self._read, daemon=True).start()
            try:
                while line := self._next_line():
                    if (answer := self._answer(line)) is not None:
                        yield answer
                self._end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(self._timeout if line is None else 0)
            finally:
                self._end()
                self._process.kill()
                self._process.wait()
                writer.join()
        if self._error is not None:
            raise self._error
        said = f"; it ended with exit code {code}" if code else ""
        if code is None:
            said = f"; it wrote nothing for {self._timeout:g} s (--captioner-timeout)"
        for window in self._asked:
            yield window, (CAPTIONER_FAILED, f"the captioner gave no answer{said}")
        self.may_follow = self._full and self._answered and code == 0

    def _end(self) -> None:
        """Lets the writer end where it waits for room."""
        self._over = True
        self._room.release()

    def _next_line(self) -> str | None:
        """What the program writes; None at its end, empty where it has been silent too long."""
        while True:
            try:
                return self._lines.get(timeout=self._timeout)
            except queue.Empty:
                if self._asked:  # else it waits for us
                    return ""

    def _answer(self, line: str) -> Answer | None:
        try:
            data = from_json(line, "an answer of the captioner")
        except UsageError:
            return None  # a note to the user, or rubbish; its window stays unanswered
        window = data.get("id") if isinstance(data, dict) else None
        if not isinstance(window, str) or window not in self._asked:
            return None
        shutil.rmtree(self._pictures / window, ignore_errors=True)
        self._answered = True
        self._room.release()
        return window, judged(data, self._asked.pop(window))

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as stdout:
            while line := stdout.readline(LONGEST_LINE):
                self._lines.put(line)
        self._lines.put(None)

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                while self._has_room() and (request := next(self._requests, None)) is not None:
                    self._asked[request.id] = len(request.shots)
                    stdin.write(json.dumps(self._as_json(request)) + "\n")
                    stdin.flush()
        except OSError as error:
            self._error = DataError(f"cannot write pictures for the captioner: {error}")
        except Exception as error:
            self._error = error

    def _has_room(self) -> bool:
        """Whether the program may have another window. Where it never frees any, its input ends."""
        if not self._room.acquire(blocking=False):
            patience = self._timeout / 2
            # What it was handed may wait in the pipe, so its first answer may still be to come.
            patience = patience if self._answered else min(patience, FIRST_ANSWER)
            self._full = not self._room.acquire(timeout=patience)
        return not self._full and not self._over

    def _as_json(self, request: Request) -> dict[str, Any]:
        folder = self._pictures / request.id
        folder.mkdir()
        shots = []
        for number, (times, images) in enumerate(zip(request.shots, request.images)):
            files = [folder / f"{number}-{place}.jpg" for place in range(len(images))]
            for file, image in zip(files, images):
                file.write_bytes(image)
            shots.append({"start": times[0], "end": times[1], "images": list(map(str, files))})
        return {"id": request.id, "video": str(request.video), "shots": shots}


def _started(words: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            pipesize=PIPE_BYTES,
        )
    except OSError as error:
        raise UsageError(
            f"--captioner {shown(words[0])} cannot be run: {error.strerror or error}"
        ) from None


def judged(data: Any, shots: int) -> Captions | Reason:
    """An answer's captions, or why they cannot be used; `shots` is how many were asked."""
    try:
        found = parse(data, "the captioner's answer")
    except UsageError as error:
        return CAPTIONER_FAILED, str(error)
    if not found.describe:
        return CAPTIONER_FAILED, "it named a licence or source, and described nothing"
    if len(found.shots) != shots:
        return CAPTIONER_FAILED, f"it described {len(found.shots)} shots of {shots}"
    return found
