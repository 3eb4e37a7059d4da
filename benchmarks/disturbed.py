"""A command's process that is disturbed, and what is checked afterwards.

Each run has a folder of its own, its place, with its out in it. A result is a digest by name of
what lies there under final names. A run that was disturbed may hold parts of the undisturbed
run's result, and nothing else. Given again, it holds all of it, and no file more.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks import REPOSITORY
from benchmarks.fuzz_inputs import SUPPORT
from causalcine_jax.errors import DataError

PATIENCE = 1800  # seconds until a command counts as hanging
POLL = 0.003  # seconds between two looks at the files
WHILE = 100  # tenths of a second
TRACEBACK = "Traceback (most recent call last)"

Result = dict[str, str]


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    words   its words for a given out
    again   its words after a disturbance
    result  of an out, as far as it is there. Raises where a file is damaged
    given   a folder whose copy is the out before the first run
    """

    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    result: Callable[[Path], Result]
    given: Path | None = None

    def start(self, place: Path) -> "Running":
        """The first run, with its out in `place`."""
        out = place / "out"
        if self.given:
            shutil.copytree(self.given, out)
        return Running(self.words(out), place)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: its result, files and seconds, how often the files changed."""

    result: Result
    names: frozenset[str]
    seconds: float
    changes: int


class Running:
    """A command's process at work in `place`, and how often its files have changed so far."""

    def __init__(self, words: list[str], place: Path):
        self.place, self.changes = place, 0
        self._seen: list[tuple[str, int]] | None = None
        self._command = [sys.executable, "-m", "causalcine_jax", *words]
        self._said = place.with_name(f"{place.name}.said")  # a pipe could fill up
        self.begun = time.monotonic()
        with open(self._said, "wb") as said:
            self.process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(SUPPORT)])},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def until(self, reached: Callable[[], bool]) -> bool:
        """Waits until `reached`, which may read `changes` and `seconds`; whether it still runs."""
        while not reached() and self.process.poll() is None:
            seen = sorted(_sizes(self.place))
            self.changes, self._seen = self.changes + (seen != self._seen), seen
            time.sleep(POLL)
        return self.process.poll() is None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def ended(self) -> tuple[int, str]:
        """The exit code and what was said on stderr."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise DataError(f"no end after {PATIENCE} s: {self._command}") from None
        return self.process.returncode, self._said.read_text("utf-8", "replace")

    def left_behind(self) -> bool:
        """Whether a process of the ended command still runs a while later."""
        for _ in range(WHILE):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.1)
        os.killpg(self.process.pid, signal.SIGKILL)
        return True


def undisturbed(command: Command, place: Path) -> Undisturbed:
    """Runs it twice, because the first run compiles."""
    for attempt in ("first", "second"):
        here = place.with_name(f"{place.name}-{attempt}")
        here.mkdir()
        running = command.start(here)
        running.until(lambda: False)
        seconds = running.seconds
        code, said = running.ended()
        if code:
            raise DataError(f"undisturbed {place.name} ended with code {code}: {_tail(said)}")
    return Undisturbed(command.result(here / "out"), names(here), seconds, running.changes)


def moment(rng: Random, sound: Undisturbed, running: Running) -> Callable[[], bool]:
    """A random moment of a run: by the clock, or by the number of times that its files changed.

    The clock finds mostly imports and loading. Changes find the writing.
    """
    if rng.random() < 0.5:
        after = rng.uniform(0, sound.seconds)
        return lambda: running.seconds >= after
    number = rng.randint(1, sound.changes)
    return lambda: running.changes >= number


def fault_after(command: Command, place: Path, sound: Undisturbed, code: int) -> str | None:
    """What is wrong after a run that ended with `code`, or after the next one; None if nothing."""
    out = place / "out"
    try:
        if wrong := _other(command.result(out), sound.result):
            return f"after the disturbance: {wrong}"
        if command.result(out) == sound.result:
            return None
        if code == 0:
            return "ended with code 0 before its result was complete"
    except Exception as error:
        return f"half-written: {_tail(str(error))}"
    again, said = Running(command.again(out), place).ended()
    if again:
        return f"given again, it ended with code {again}: {_tail(said)}"
    try:
        found = command.result(out)
    except Exception as error:
        return f"given again, its result is damaged: {_tail(str(error))}"
    if found != sound.result:
        missing = sorted(sound.result.keys() - found.keys())
        return f"given again: {_other(found, sound.result)} missing {missing}"
    if more := names(place) ^ sound.names:
        return f"given again, files are left over or missing: {sorted(more)[:5]}"
    return None


def names(place: Path) -> frozenset[str]:
    """The files of a place. Those within a checkpoint have random names."""
    found = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    return frozenset(
        name for name in found if "/checkpoints/" not in name or "tmp" in name.split("/")[2]
    )


def _other(found: Result, sound: Result) -> str:
    """Names what is there and is not as in the undisturbed run; empty if nothing is."""
    wrong = [name for name in found if found[name] != sound.get(name)]
    return f"{', '.join(sorted(wrong)[:3])} differ from the undisturbed run's" if wrong else ""


def _sizes(place: Path) -> Iterator[tuple[str, int]]:
    for folder, _, files in os.walk(place):
        for name in files:
            file = os.path.join(folder, name)
            try:
                yield file, os.stat(file).st_size
            except FileNotFoundError:
                continue


def _tail(text: str) -> str:
    return " ".join(text.split())[-300:]
