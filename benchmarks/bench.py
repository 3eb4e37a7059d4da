"""Benchmarks any preset with random weights, one part after the other, into one JSON record.

    settings, parts --worker.py, a process per part--> results
        --> record {schema, device, software, settings, parts} --report.py--> a table

If a part fails, the record notes the reason and the next part begins. The record is kept
after each part, because later ones may take hours.
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
from benchmarks.sources import software
from benchmarks.worker import ENVIRONMENT
from causalcine_jax.cli import USAGE, cores
from causalcine_jax.errors import DataError, UsageError, disk_faults
from causalcine_jax.film_folder.record import pretty
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.output import one_writer

SCHEMA = "causalcine/benchmark@1"
PEERS = ("torch", "diffusers")
PEERS_INSTALL = 'pip install -c constraints.txt -e ".[parity]"'
ERROR = "error: "  # how cli.run begins an error's line
# A fixed name: the next start removes what a killed one left there, tens of GB.
START = ".bench.start"
LAST_LINES = 20  # of a failed process's output


def bench(
    settings: Settings,
    parts: tuple[str, ...],
    scratch: Path,
    say: Callable[[str], None],
    keep: Callable[[dict], None] = lambda record: None,
    begun: dict | None = None,
) -> dict:
    """Measures `parts`; returns the record.

    Args:
      settings: what is measured.
      parts: names of the parts, in order.
      scratch: a folder for files that a part reads from disk; they are removed again.
      say: prints progress.
      keep: called with the record after each part; `unfinished` names the parts to come.
      begun: a record of the same settings, whose measured parts are taken over.

    A part that cannot be measured as requested has its reason under `refused`. One that crashed
    has it under `failed`. Peers that are not installed are left out and named under
    `missing_peers`.
    """
    missing = missing_peers() if settings.peer else []
    measured = (
        {part: result for part, result in begun["parts"].items() if not _fault(result)}
        if begun
        else {}
    )
    coming = [part for part in parts if part not in measured]
    record: dict[str, Any] = {
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
    """Returns why parts of a record could not be measured."""
    return [
        f"{part} {fault}" for part, result in record["parts"].items() for fault in _fault(result)
    ]


def _fault(result: dict) -> list[str]:
    return [f"{word}: {result[word]}" for word in ("refused", "failed") if word in result]


def write(record: dict, out: Path) -> None:
    """Writes the record to an atomic file.

    Raises:
      DataError: writing failed.
    """
    write_text(out, pretty(record) + "\n")


def read(file: Path, schema: str, what: str) -> dict:
    """Returns a record that `write` wrote.

    Raises:
      DataError: the file is no record of this schema; `what` says of what it should be.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no record of {what} ({type(error).__name__}: {error}): "
            "give another file, or delete it"
        ) from error
    if found != schema:
        raise DataError(
            f"{file} is no record of {what}: its schema is {found}, not {schema}; "
            "give another file, or delete it"
        )
    return record


def made(folder: Path) -> Path:
    """Makes the folder if it is missing, and returns it.

    Raises:
      DataError: it cannot be made.
    """
    with disk_faults(f"cannot make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing_peers() -> list[str]:
    """Returns the packages that peers need and that are not installed."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


def without(missing: list[str]) -> str:
    """Returns the message that these are missing, and how to install them."""
    verb = "is" if len(missing) == 1 else "are"
    return f"{' and '.join(missing)} {verb} not installed here: {PEERS_INSTALL}"


def in_process(
    part: str, settings: Settings | None, environment: dict[str, str] | None = None, **given: Any
) -> dict:
    """Runs a part in a worker process and returns its answer.

    The part's function takes `given` beside the settings.

    Raises:
      UsageError: the request cannot be measured.
      DataError: it failed in another way.
    """
    with tempfile.TemporaryDirectory(prefix="bench.") as scratch:
        asked, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps({"settings": settings and settings.to_dict(), "given": given}))
        # By default jax takes most of the device's memory at once, which leaves none for torch.
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
    """Returns in a line why a process failed: the last error that it named, or its exit."""
    if named := [line for line in lines if line.startswith(ERROR)]:
        return named[-1].removeprefix(ERROR)
    if code < 0:
        memory = ", as happens if memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)}){memory}"
    return f"its process ended with code {code}{f': {lines[-1]}' if lines else ''}"


def start(settings: Settings, scratch: Path) -> dict:
    """Measures a start that compiles, then one that finds the first one's compiled programs.

    Both read a model folder of random weights from disk.
    """
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
    """Yields the folder, emptied, as its one writer, and removes it afterwards.

    Raises:
      UsageError: another process uses it.
      DataError: it cannot be emptied or made.
    """
    with one_writer(folder, beside=True):
        with disk_faults(f"cannot make an empty folder {folder}"):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
