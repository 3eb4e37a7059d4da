"""Ends commands at random moments by TERM or KILL, then gives them again, or goes on with a film.

After the end nothing is half-written: what lies under a final name is the whole result. After the
second run the result is that of an undisturbed run, bit for bit.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks import REPOSITORY
from benchmarks.fuzz_inputs import SUPPORT
from causalcine_jax.errors import DataError

SIGNALS = (signal.SIGTERM, signal.SIGKILL)
PATIENCE = 1800  # seconds until a command counts as hanging
STORY = """schema: causalcine/story@1
shots: [{caption: "Mia waves.", chunks: 6}, {caption: "Otto sleeps.", chunks: 6}]
"""


@dataclass(frozen=True)
class Command:
    """A command that is ended.

    words   its words for a given --out
    digest  of the result in --out, None if there is none
    again   words that go on after an end, tried first; empty: the same command again
    """

    words: Callable[[Path], list[str]]
    digest: Callable[[Path], str | None]
    again: Callable[[Path], list[str]] = lambda out: []


def kills(count: int, seed: int, say: Callable[[str], None]) -> dict:
    """Ends `count` runs, of all commands in turn; returns how each ended and what failed."""
    rng, faults, ended = Random(seed), [], {}
    with tempfile.TemporaryDirectory(prefix="kills.") as scratch:
        folder = Path(scratch)
        tried, sound, seconds = commands(folder), {}, {}
        for name, command in tried.items():
            for out in (folder / f"{name}-first", folder / f"{name}-sound"):  # the first compiles
                begun = time.monotonic()
                finish(command.words(out))
                seconds[name], sound[name] = time.monotonic() - begun, command.digest(out)
            say(f"kills: {name} takes {seconds[name]:.0f} s undisturbed")
        for number in range(count):
            name = list(tried)[number % len(tried)]
            number_sent = SIGNALS[number // len(tried) % 2]
            after = rng.uniform(0, seconds[name])
            out = folder / f"{name}-{number}"
            code = _end(tried[name].words(out), after, number_sent)
            fault = after_end(tried[name], out, sound[name])
            ended.setdefault(name, Counter())[str(code)] += 1
            if fault:
                what = {"command": name, "signal": number_sent.name, "after": round(after, 2)}
                faults.append({**what, "fault": fault})
                say(f"kills: {faults[-1]}")
    return {
        "count": count,
        "seed": seed,
        "seconds": {name: round(each, 1) for name, each in seconds.items()},
        "exit_codes": {name: dict(codes) for name, codes in ended.items()},
        "faults": faults,
        "summary": ", ".join(f"{name} {sum(codes.values())}" for name, codes in ended.items()),
    }


def after_end(command: Command, out: Path, sound: str) -> str | None:
    """What is wrong after an end, or after the second run; None if nothing is."""
    try:
        found = command.digest(out)
    except Exception as error:
        return f"half-written: {' '.join(str(error).split())[:200]}"
    if found is not None:
        return None if found == sound else "the result of the ended run is another"
    again = command.again(out)
    try:
        if not again or run(again).returncode:
            finish(command.words(out))
        return None if command.digest(out) == sound else "the second run's result is another"
    except Exception as error:
        return f"the second run failed: {' '.join(str(error).split())[:200]}"


def commands(folder: Path) -> dict[str, Command]:
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_models import tiny_folder
    from tiny_training import tiny_store

    model, store, story = folder / "model", folder / "store", folder / "story.yaml"
    tiny_folder(model)
    tiny_store(store)
    story.write_text(STORY)
    kept = f"--compile-cache={folder / 'compiled'}"
    training = ["train", f"--config={SUPPORT / 'tiny_training.py'}", f"--config.data.store={store}"]
    encoding = ["--films=6", "--batch=1", "--text-len=24", kept]
    return {
        "train": Command(lambda out: [*training, f"--config.out={out}", kept], _trained),
        "film": Command(
            lambda out: ["film", f"--model={model}", f"--story={story}", f"--out={out}", kept],
            _filmed,
            lambda out: ["film", f"--resume={out}", kept],
        ),
        "encode": Command(
            lambda out: ["encode", f"--model={model}", f"--out={out}", *encoding], _encoded
        ),
        "convert": Command(
            lambda out: ["convert", f"--from={model}", "--to=diffusers", f"--out={out}"], _tensors
        ),
    }


def _trained(out: Path) -> str | None:
    return _tensors(out / "model") if (out / "model").is_dir() else None


def _filmed(out: Path) -> str | None:
    from causalcine_jax.render.mp4 import read_film

    if not (out / "film.json").exists():
        return None
    read_film(out / "film.mp4")
    return json.loads((out / "film.json").read_text("utf-8"))["frames_sha256"]


def _encoded(out: Path) -> str | None:
    from causalcine_jax.data.latent_store import LatentStore

    try:
        store = LatentStore.open(out)
    except DataError:  # it says that the store is not complete
        return None
    digest = hashlib.sha256()
    for record in range(len(store)):
        digest.update(store[record]["latents"].tobytes())
    return digest.hexdigest()


def _tensors(out: Path) -> str | None:
    """Of all tensors below a folder that appears only when it is complete."""
    if not out.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(out.rglob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _end(words: list[str], after: float, number: signal.Signals) -> int:
    """Runs a command, sends it the signal after some seconds, and returns its exit code."""
    process = started(words)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    return process.returncode


def run(words: list[str]) -> subprocess.CompletedProcess:
    process = started(words)
    _, said = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(words, process.returncode, None, said)


def finish(words: list[str]) -> None:
    done = run(words)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise DataError(f"{words[0]} ended with code {done.returncode}: {''.join(last)}")


def started(words: list[str], before: tuple[str, ...] = ()) -> subprocess.Popen:
    path = os.pathsep.join([str(REPOSITORY), str(SUPPORT)])
    return subprocess.Popen(
        [*before, sys.executable, "-m", "causalcine_jax", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
