"""The commands that kills and full disks disturb, on tiny networks, and what is checked afterwards.

Each run has a folder of its own, its place, with its out in it. A result is a digest by name of
what lies there under final names. A run that was disturbed may hold parts of the undisturbed
run's result, and nothing else. Given again, it holds all of it, and no file more.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from benchmarks import REPOSITORY
from benchmarks.fuzz_inputs import SUPPORT
from causalcine_jax.errors import DataError

PATIENCE = 1800  # seconds until a command counts as hanging
POLL = 0.003  # seconds between two looks at the files
WHILE = 100  # tenths of a second
TRACEBACK = "Traceback (most recent call last)"
STORY = """schema: causalcine/story@1
shots: [{caption: "Mia waves.", chunks: 4}, {caption: "Otto sleeps.", chunks: 4}]
"""
UNTOLD = ("software", "timings", "device")  # of film.json: they differ between two equal films

Result = dict[str, str]


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    words   its words for a given out
    again   its words after a disturbance
    result  of an out, as far as it is there. Raises where a file is damaged
    """

    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    result: Callable[[Path], Result]


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
        self.place, self.changes, self._seen = place, 0, None
        self._said = place.with_name(f"{place.name}.said")  # a pipe could fill up
        self.begun = time.monotonic()
        with open(self._said, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "causalcine_jax", *words],
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
            raise DataError(f"no end after {PATIENCE} s: {self.process.args}") from None
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
        running = Running(command.words(here / "out"), here)
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


def commands(folder: Path) -> dict[str, Command]:
    """The commands by name. What they read is written below `folder`."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_models import tiny_folder
    from tiny_training import tiny_store

    model, store, story = folder / "model", folder / "store", folder / "story.yaml"
    tiny_folder(model)
    tiny_store(store)
    story.write_text(STORY)
    kept = f"--compile-cache={folder / 'compiled'}"
    train = ["train", f"--config={SUPPORT / 'tiny_training.py'}", f"--config.data.store={store}"]
    encode = ["encode", f"--model={model}", "--films=6", "--films-per-shard=2", kept]
    convert = ["convert", f"--from={model}", "--to=diffusers", "--shard-gb=0.00002"]
    film = ["film", f"--model={model}", f"--story={story}", kept]
    return {
        "train": _same(lambda out: [*train, f"--config.out={out}", kept], _trained),
        "film": Command(
            lambda out: [*film, f"--out={out}"],
            lambda out: (
                ["film", f"--resume={out}", kept]
                if (out / "unfinished" / "asked.json").exists()
                else [*film, f"--out={out}"]
            ),
            _filmed,
        ),
        "encode": _same(lambda out: [*encode, f"--out={out}"], _encoded),
        "encode-by-two": _same(lambda out: [*encode, "--processes=2", f"--out={out}"], _encoded),
        "convert": _same(lambda out: [*convert, f"--out={out}"], _files),
    }


def _same(words: Callable[[Path], list[str]], result: Callable[[Path], Result]) -> Command:
    return Command(words, words, result)


def _trained(out: Path) -> Result:
    """The model, and each step's losses."""
    from causalcine_jax.training.metrics import read_records

    for file in out.glob("*.json"):
        json.loads(file.read_text("utf-8"))
    _check_pictures(out)
    losses = {
        f"step {record['step']}": str([v for name, v in record.items() if "loss" in name])
        for record in read_records(out / "metrics.jsonl")
    }
    return losses | {f"model/{name}": digest for name, digest in _files(out / "model").items()}


def _filmed(out: Path) -> Result:
    from causalcine_jax.render.mp4 import read_film

    found, film, grown = {}, out / "film.mp4", out / "film.unfinished.mp4"
    if film.exists():
        found["film.mp4"] = _digest(read_film(film).tobytes())
    elif grown.exists() and any((out / "unfinished" / "latents").glob("*.npz")):
        read_film(grown)
    for kept in out.glob("unfinished/latents/*.npz"):
        np.load(kept, allow_pickle=False)["latents"]
    _check_pictures(out)
    if (out / "memory.png").exists():
        found["memory.png"] = _digest((out / "memory.png").read_bytes())
    if (out / "film.json").exists():
        told = json.loads((out / "film.json").read_text("utf-8"))
        found["film.json"] = json.dumps({n: v for n, v in told.items() if n not in UNTOLD})
    return found


def _encoded(out: Path) -> Result:
    from causalcine_jax.data.latent_store import LatentStore

    if not out.exists():
        return {}
    store, digest = LatentStore.open(out), hashlib.sha256()
    for number in range(len(store)):
        for value in store[number].values():
            digest.update(np.asarray(value).tobytes())
        digest.update(json.dumps(store.prompts(number)).encode())
    return {"store": digest.hexdigest()}


def _files(folder: Path) -> Result:
    """Of all files of a folder that appears only when it is complete."""
    return {
        file.relative_to(folder).as_posix(): _digest(file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "metadata.json"  # which names the run's out
    }


def _check_pictures(out: Path) -> None:
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()


def _other(found: Result, sound: Result) -> str:
    """Names what is there and is not as in the undisturbed run; empty if nothing is."""
    wrong = [name for name in found if found[name] != sound.get(name)]
    return f"{', '.join(sorted(wrong)[:3])} differ from the undisturbed run's" if wrong else ""


def _sizes(place: Path):
    for folder, _, files in os.walk(place):
        for name in files:
            file = os.path.join(folder, name)
            try:
                yield file, os.stat(file).st_size
            except FileNotFoundError:
                continue


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tail(text: str) -> str:
    return " ".join(text.split())[-300:]
