"""Benchmarks of any preset with random weights: parts one after the other, each in a process of its own, into one JSON record.

    settings, parts --worker.py per part--> results --> record {schema, device, software, settings, parts} --report.py--> a table

A part that fails is noted in the record with its reason, and the next begins. The record is kept after each, for the last may take hours.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.settings import Settings
from benchmarks.worker import ENVIRONMENT
from causalcine_jax.cli import USAGE, cores
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.record import pretty, software
from causalcine_jax.utils.atomic_file import atomic_file

SCHEMA = "causalcine/benchmark@1"
PEERS = ("torch", "diffusers")
PEERS_INSTALL = 'pip install -c constraints.txt -e ".[parity]"'
ERROR = "error: "  # as cli.run begins the line
START = ".bench.start"  # a fixed name: what a start that was killed leaves there, tens of GB, goes with the next
LAST_LINES = 20  # of what a process said before it failed


def bench(
    settings: Settings,
    parts: tuple[str, ...],
    scratch: Path,
    say: Callable[[str], None],
    keep: Callable[[dict], None] = lambda record: None,
    begun: dict | None = None,
) -> dict:
    """Measures `parts`; returns the record.

    scratch  a folder for what a part has to read from disk, which goes away again
    keep     is called with the record after each part; until the last it names those to come under `unfinished`
    begun    a record of the same settings: its parts that were measured are taken from it

    A part that cannot be measured as asked says why under `refused`, one that died, or its process, under `failed`. Peers that are not installed
    are left out, and named under `missing_peers`.
    """
    missing = missing_peers() if settings.peer else []
    measured = (
        {part: result for part, result in begun["parts"].items() if not _fault(result)}
        if begun
        else {}
    )
    coming = [part for part in parts if part not in measured]
    record = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings.recorded(),
        "software": software(),
        "machine": {
            "cores": len(cores()),
            "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "device": begun["device"] if begun else None,
        **({"missing_peers": missing} if missing else {}),
        "unfinished": coming,
        "parts": measured,
    }
    settings = dataclasses.replace(settings, peer=settings.peer and not missing)
    for number, part in enumerate(coming, 1):
        say(f"{part} ...")
        started = time.perf_counter()
        try:
            answer = start(settings, scratch) if part == "start" else in_process(part, settings)
            record["device"] = answer["device"]
            record["parts"][part] = {
                **answer["result"],
                "took_seconds": round(time.perf_counter() - started, 1),
            }
        except (UsageError, DataError) as error:
            say(f"{part}: {error}")
            record["parts"][part] = {
                "refused" if isinstance(error, UsageError) else "failed": str(error)
            }
        record["unfinished"] = coming[number:]
        if number == len(coming):
            del record["unfinished"]
        keep(record)
    return record


def faults(record: dict) -> list[str]:
    """Why parts of a record could not be measured."""
    return [
        f"{part} {fault}" for part, result in record["parts"].items() for fault in _fault(result)
    ]


def _fault(result: dict) -> list[str]:
    return [f"{word}: {result[word]}" for word in ("refused", "failed") if word in result]


def write(record: dict, out: Path) -> None:
    """The record as a file, whole or not at all. `DataError` where that cannot be."""
    with atomic_file(out) as partial:
        partial.write_text(pretty(record) + "\n", encoding="utf-8")


def made(folder: Path) -> Path:
    """The folder, made where it is missing. `DataError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder


def missing_peers() -> list[str]:
    """Packages that a peer needs and that are not installed."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


def without(missing: list[str]) -> str:
    """That these are missing, and what mends it."""
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here: {PEERS_INSTALL}"


def in_process(
    part: str, settings: Settings | None, environment: dict[str, str] | None = None, **given: Any
) -> dict:
    """What the worker says of a part, whose function takes `given` beside the settings. `UsageError` if it was asked for what cannot be, `DataError` if it failed otherwise."""
    with tempfile.TemporaryDirectory(prefix="bench.") as scratch:
        asked, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps({"settings": settings and settings.to_dict(), "given": given}))
        # torch could not have any memory beside jax, which else takes most of the device's at once.
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if settings and settings.peer else {}
        environment = {**ENVIRONMENT.get(part, {}), **shared, **os.environ, **(environment or {})}
        command = [sys.executable, "-m", "benchmarks.worker", part, str(asked), str(answer)]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return json.loads(answer.read_text())
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = _reason(done.returncode, lines)
    if done.returncode == USAGE:
        raise UsageError(reason)
    print(*lines[-LAST_LINES:], sep="\n", file=sys.stderr, flush=True)
    raise DataError(reason)


def _reason(code: int, lines: list[str]) -> str:
    """Why a process failed, in a line: the error that it named last, else how it ended."""
    if named := [line for line in lines if line.startswith(ERROR)]:
        return named[-1].removeprefix(ERROR)
    if code < 0:
        memory = ", as happens where memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)}){memory}"
    return f"its process ended with code {code}{f': {lines[-1]}' if lines else ''}"


def start(settings: Settings, scratch: Path) -> dict:
    """A start that compiles, then another with the compiled programs that the first one kept; both read a model folder of random weights from disk."""
    with _emptied(scratch / START) as place:
        folder = str(place / "model")
        files = in_process("model_folder", settings, folder=folder)["result"]
        keep = {
            "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        cold, again = (
            in_process("first_chunk", settings, keep, folder=folder, started=time.time())
            for _ in range(2)
        )
    return {
        "result": {
            "files": files,
            "cold": cold["result"],
            "with_compilation_cache": again["result"],
        },
        "device": again["device"],
    }


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """The folder, empty, and removed afterwards. `DataError` where that cannot be."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise DataError(
            f"cannot make an empty folder {folder}: {error.strerror or error}"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
