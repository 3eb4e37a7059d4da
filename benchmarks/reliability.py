"""Tries what users' inputs do to the commands; a JSON record.

    fuzz        mutated inputs to all readers: no traceback, no hang, no memory over 2 GiB
    kills       commands ended at random moments: nothing half-written, the same result afterwards
    endless     a film of many chunks: its memory stays flat
    full_disk   commands whose disk is full at a random moment: as kills

`causalcine bench reliability --out FILE.json` makes all parts; --case picks some, --repeats sets
the number of inputs, kills, chunks or disks. Parts that FILE.json holds already stay there.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import read, write
from benchmarks.sources import run_context
from causalcine_jax.errors import UsageError, choice_faults, raise_faults

SCHEMA = "causalcine/reliability@1"
SEED = 0
COUNTS = {"fuzz": 2000, "kills": 100, "endless": 10_000, "full_disk": 20}


def reliability(
    names: tuple[str, ...],
    count: int | None,
    out: Path | None,
    say: Callable[[str], None],
) -> dict:
    """Runs the parts `names` (empty: all); returns the record, written to `out` after each part.

    Args:
      count: inputs, kills, chunks or disks, in place of COUNTS.

    Raises:
      UsageError: an unknown part, or a count below 1.
      DataError: a part cannot be run, or `out` is another file.
    """
    raise_faults(
        "reliability",
        [fault for name in names for fault in choice_faults("case", name, COUNTS)],
    )
    if count is not None and count < 1:
        raise UsageError(f"repeats must be at least 1, not {count}")
    from benchmarks.endless import endless
    from benchmarks.full_disk import full_disk
    from benchmarks.fuzz import fuzz
    from benchmarks.kills import kills

    made = run_context()
    made["command"] = "causalcine bench reliability"  # the flags name folders of this machine
    failed = out.with_suffix(".failed") if out else None
    functions = {
        "fuzz": lambda number: fuzz(number, SEED, failed, say),
        "kills": lambda number: kills(number, SEED, failed, say),
        "endless": lambda number: endless(number, say),
        "full_disk": lambda number: full_disk(number, SEED, failed, say),
    }
    record = {"schema": SCHEMA, **made, "parts": _there(out)}
    for name in names or COUNTS:
        say(f"{name} ...")
        part = functions[name](count or COUNTS[name])
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record["parts"][name] = {"date": date, "commit": made["software"].get("commit"), **part}
        if out:
            write(record, out)
    return record


def _there(out: Path | None) -> dict:
    """The parts of an earlier run."""
    if out is None or not out.exists():
        return {}
    return read(out, SCHEMA, "reliability").get("parts", {})


def faults(record: dict) -> list[str]:
    """Lists the parts with faults, and the first fault of each."""
    return [
        f"{name}: {len(part['faults'])} of {part['count']} failed, first {_line(part['faults'][0])}"
        for name, part in record["parts"].items()
        if part["faults"]
    ]


def reliability_table(record: dict) -> str:
    """Returns Markdown, a row per part."""
    rows = ["| part | tried | failed | |", "|---|---|---|---|"]
    for name, part in record["parts"].items():
        rows.append(f"| {name} | {part['count']:,} | {len(part['faults'])} | {part['summary']} |")
    return "\n".join(rows)


def _line(fault: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in fault.items() if key != "peak")[:300]
