"""Benchmarks of any preset with random weights: parts one after the other, each in a process of its own, into one JSON record.

    settings, parts --worker.py per part--> results --> record {schema, device, software, settings, parts} --report.py--> a table

The record is written after every part: one that fails is noted in it, and the next begins.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from causalcine_jax.benchmarks.settings import Settings
from causalcine_jax.benchmarks.worker import ENVIRONMENT
from causalcine_jax.cli import USAGE, cores
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.generation.provenance import pretty, software
from causalcine_jax.whole_file import whole_file

SCHEMA = "causalcine/benchmark@1"
PEERS = ("torch", "diffusers")


def bench(settings: Settings, parts: tuple[str, ...], out: Path | None, say: Callable[[str], None]) -> dict:
    """Measures `parts`; returns the record, and writes it to `out` after each.

    Raises:
      UsageError: what is asked for cannot be measured.
      DataError: a part failed, after all others ran; the record says which.
    """
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None] if settings.peer else []
    if missing:
        raise UsageError(f'--peer needs {" and ".join(missing)}, which are not installed here: pip install -e ".[parity]"')
    record = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: value for name, value in settings.to_dict().items() if name != "configs"},  # a folder of this machine
        "software": software(),
        "machine": {"cores": len(cores()), "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None},
        "device": None,
        "parts": {},
    }
    for part in parts:
        say(f"{part} ...")
        started = time.perf_counter()
        try:
            measured = start(settings) if part == "start" else in_process(part, settings)
            record["device"] = measured["device"]
            record["parts"][part] = {**measured["result"], "took_seconds": round(time.perf_counter() - started, 1)}
        except DataError as error:
            say(f"{part} failed: {error}")
            record["parts"][part] = {"failed": str(error)}
        if out is not None:
            with whole_file(out) as partial:
                partial.write_text(pretty(record) + "\n", encoding="utf-8")
    if failed := [part for part, result in record["parts"].items() if "failed" in result]:
        raise DataError(f"{' and '.join(failed)} could not be measured")
    return record


def in_process(part: str, settings: Settings, **environment: str) -> dict:
    """What the worker says of a part. `UsageError` if it was asked for what cannot be, `DataError` if it failed otherwise."""
    with tempfile.TemporaryDirectory(prefix="bench.") as scratch:
        asked, answer = Path(scratch) / "settings.json", Path(scratch) / "result.json"
        asked.write_text(json.dumps(settings.to_dict()))
        # torch could not have any memory beside jax, which else takes most of the device's at once.
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if settings.peer else {}
        environment = {**ENVIRONMENT.get(part, {}), **shared, **os.environ, **environment, "BENCH_STARTED": repr(time.time())}
        command = [sys.executable, "-m", "causalcine_jax.benchmarks.worker", part, str(asked), str(answer)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            return json.loads(answer.read_text())
    lines = [line for line in done.stderr.strip().splitlines() if line]
    reason = lines[-1].removeprefix("error: ") if lines else f"its process ended with code {done.returncode}"
    if done.returncode == USAGE:
        raise UsageError(reason)
    raise DataError(reason)


def start(settings: Settings) -> dict:
    """A start from nothing, then another with the compiled programs that the first one kept."""
    with tempfile.TemporaryDirectory(prefix="bench.cache.") as cache:
        keep = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        cold, again = in_process("first_chunk", settings, **keep), in_process("first_chunk", settings, **keep)
    return {"result": {"cold": cold["result"], "with_compilation_cache": again["result"]}, "device": again["device"]}
