"""Runs one of the four commands: its parts one after the other, each under its time limit."""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import REPOSITORY
from benchmarks.bench import in_process, made, write
from benchmarks.half_hour.parts import (
    BENCH,
    LIMITS,
    REHEARSAL,
    TEST_FILE,
    TESTS,
    Part,
    parts,
)
from benchmarks.sources import software
from causalcine_jax.errors import DataError

SCHEMA = "causalcine/half-hour@1"
LAST_LINES, SHORTEST = 30, 10  # of output; seconds in which a part is still begun


def measure(
    command: int, out: Path, kept: Path, rehearse: bool, say: Callable[[str], None]
) -> dict:
    """Runs what is missing of a command; returns its record, also `out`/half_hour_N.json.

    Args:
      kept: a folder on this machine, for the records of finished parts.

    Raises:
      DataError: jax computes on the CPU, and this is no rehearsal.
    """
    begun, spent = time.perf_counter(), _children()
    longer = REHEARSAL if rehearse else 1
    left = lambda: longer * LIMITS[command] - (time.perf_counter() - begun)
    here, file = software(), made(out.absolute()) / f"half_hour_{command}.json"
    found = in_process("machine", None)
    if not rehearse and found["device"]["platform"] == "cpu":
        raise DataError(
            "jax computes on the CPU here, so nothing was measured: install its plugin for the "
            'accelerator (pip install "jax[cuda13]"), or rehearse with --rehearse'
        )
    record = {
        "schema": SCHEMA,
        "command": command,
        "rehearsal": rehearse,
        "device": found["device"],
        **found["result"],
        "software": here,
        "parts": [],
    }
    for part in parts(command, None if rehearse else found["result"]["memory"]):
        place = made(kept.absolute()) / f"{part.name}{'.rehearsal' if rehearse else ''}.json"
        done = _known(place, part, here, found["device"]["kind"])
        if done is None:
            done = _begin(part, place, left(), found["result"]["memory"], rehearse)
            done |= {"software": here, "kind": found["device"]["kind"]}
            if done["code"] == 0:
                write(done, place)
        say(f"{part.name}: {_outcome(done)}")
        record["parts"].append(done)
        record |= {
            "seconds": round(time.perf_counter() - begun, 1),
            "cpu_seconds": round(_children() - spent, 1),
        }
        write(record, file)
    return record


def unmeasured(record: dict) -> list[str]:
    """Why parts were not measured."""
    return [f"{one['part']}: {_outcome(one)}" for one in record["parts"] if one["code"] != 0]


def _begin(part: Part, place: Path, left: float, memory: int | None, rehearse: bool) -> dict:
    head = {"part": part.name, "words": list(part.words), "code": None}
    if not rehearse and memory is not None and memory < part.memory:
        needs, has = (f"{size / 1e9:.0f} GB" for size in (part.memory, memory))
        return head | {"why": f"it needs {needs} of device memory, and here are {has}"}
    if left < SHORTEST:
        return head | {"why": "no time was left; call the command again"}
    return head | _process(
        part, place, min((REHEARSAL if rehearse else 1) * part.seconds, left), rehearse
    )


def _process(part: Part, place: Path, limit: float, rehearse: bool) -> dict:
    """Runs the part's process, which is killed with its children at `limit` seconds."""
    partial, programs = place.with_suffix(".partial.json"), _programs(place, rehearse)
    words = part.rehearsal if rehearse else part.words
    command = (*BENCH, *words, "--out", str(partial)) if words else (*TESTS, TEST_FILE)
    environment = os.environ | _keeping(programs)
    environment |= {"PYTHONUNBUFFERED": "1", **({"XLA_FLAGS": part.flags} if part.flags else {})}
    if part.words[:1] != ("race",):  # a race resumes from it, and checks its software
        partial.unlink(missing_ok=True)  # of an earlier attempt
    begun, spent, found = time.perf_counter(), _children(), _count(programs)
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    why = None
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        why = f"stopped after {limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return {
        "code": process.returncode if why is None else None,
        **({} if why is None else {"why": why}),
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(_children() - spent, 1),
        # Of earlier parts too. A record of training says which of its own it loaded.
        "programs": {"found": found, "added": _count(programs) - found},
        "record": json.loads(partial.read_text("utf-8")) if partial.exists() else None,
        "output": output.splitlines()[-LAST_LINES:],
    }


def _programs(place: Path, rehearse: bool) -> Path:
    """The folder of compiled programs beside the records; a rehearsal's is its own."""
    return made(place.parent / f"programs{'.rehearsal' if rehearse else ''}")


def _keeping(programs: Path) -> dict[str, str]:
    """The variables by which a process keeps all compiled programs in the folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _count(programs: Path) -> int:
    return len(list(programs.glob("*-cache")))


def _known(place: Path, part: Part, here: dict, kind: str) -> dict | None:
    """The kept record of a part, if it was measured by this code on this kind of device."""
    if not place.exists():
        return None
    record = json.loads(place.read_text("utf-8"))
    same = (record["words"], record.get("software"), record["kind"])
    return record if same == (list(part.words), here, kind) else None


def _outcome(done: dict) -> str:
    if done["code"] == 0:
        return f"measured in {done['seconds']} s ({done['cpu_seconds']} s of CPU)"
    return done.get("why") or f"failed with code {done['code']}: {_last(done['output'])}"


def _last(output: list[str]) -> str:
    return next((line for line in reversed(output) if line.strip()), "it printed nothing")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
