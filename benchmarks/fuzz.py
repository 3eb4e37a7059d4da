"""Feeds mutated inputs to the readers of all commands: no traceback, no hang, bounded memory.

    sound files -> a mutation each, by seed and number -> a worker process -> outcome

An input that fails is kept in `failed` beside the record, so that it can be tried again.
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks import REPOSITORY
from benchmarks.fuzz_inputs import kinds
from causalcine_jax.errors import DataError

HANG_SECONDS = 10  # of the process's own time, because the machine may be busy
KILL_SECONDS = 120
START_SECONDS = 300
GOOD = ("read", "refused")


def fuzz(
    count: int,
    seed: int,
    failed: Path | None,
    say: Callable[[str], None],
    only: tuple[str, ...] = (),
) -> dict:
    """`count` inputs, of all kinds in turn; returns the outcomes by kind and what failed.

    Args:
      failed: folder for the inputs that fail; None keeps none.
      only: names of kinds, in place of all.
    """
    outcomes: dict[str, Counter] = {}
    slowest: dict[str, float] = {}
    faults, peak, base = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="fuzz.") as scratch, _Reader() as reader:
        sound = kinds(Path(scratch))
        names = list(only or sound)
        _check_sound(reader, {name: sound[name].sound for name in names})
        for number in range(count):
            name = names[number % len(names)]
            path = Path(scratch) / f"{number}{sound[name].suffix}"
            what = sound[name].write(path, Random(f"{seed}.{name}.{number}"))
            answer = reader.ask(name, path)
            seconds = answer.get("seconds", 0.0)
            if seconds > HANG_SECONDS:
                answer["outcome"] = "hang"
            outcomes.setdefault(name, Counter())[answer["outcome"]] += 1
            slowest[name] = max(slowest.get(name, 0.0), seconds)
            peak, base = max(peak, answer.get("peak", 0)), reader.base
            if answer["outcome"] not in GOOD:
                fault = {"kind": name, "number": number, "mutated": what, **answer}
                faults.append(fault)
                say(f"{name} {number}: {answer['outcome']} {answer.get('error', '')}")
                keep(path, failed, f"{name.replace(' ', '-')}-{number}{path.suffix}")
            remove(path)
            if (number + 1) % 500 == 0:
                say(f"fuzz: {number + 1} of {count}, {len(faults)} faults")
    return {
        "count": count,
        "seed": seed,
        "outcomes": {name: dict(found) for name, found in outcomes.items()},
        "slowest_seconds": slowest,
        "peak_bytes": peak,
        "of_which_before_bytes": base,
        "faults": faults,
        "summary": f"slowest {max(slowest.values()):.1f} s, "
        f"{peak / 2**20:.0f} MiB at most, of which {base / 2**20:.0f} before the first",
    }


def _check_sound(reader: "_Reader", sound: dict[str, list[Path]]) -> None:
    """Raises `DataError` if a reader refuses what is sound: mutations of it would show nothing."""
    for name, paths in sound.items():
        for path in paths:
            answer = reader.ask(name, path)
            if answer["outcome"] != "read":
                raise DataError(f"the sound {name} {path.name} is not read: {answer}")


class _Reader:
    """The worker process; it is started again after a crash or a hang."""

    def __init__(self):
        self.base = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def ask(self, kind: str, path: Path) -> dict:
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=KILL_SECONDS)
        except queue.Empty:
            self._stop()
            return {"outcome": "hang", "error": f"no answer in {KILL_SECONDS} s"}
        if line:
            return json.loads(line)
        code = process.wait()
        self._stop()
        return {"outcome": "crash", "error": f"the process ended with code {code}"}

    def _start(self) -> subprocess.Popen[str]:
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz_reader"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, self._lines), daemon=True).start()
        try:
            answer = json.loads(self._lines.get(timeout=START_SECONDS) or "{}")
        except queue.Empty:
            answer = {}
        if not answer.get("ready"):
            self._stop()
            raise DataError("the process that reads inputs does not start")
        self.base = self.base or answer["peak"]
        return process

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _read(lines, to: queue.Queue) -> None:
    for line in lines:
        to.put(line)
    to.put("")  # the process has ended


def keep(path: Path, folder: Path | None, name: str) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    remove(folder / name)
    if path.is_dir():
        shutil.copytree(path, folder / name)
    elif path.exists():
        shutil.copy(path, folder / name)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
