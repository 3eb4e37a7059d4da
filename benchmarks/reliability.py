"""Tries what users' inputs do to the commands; a JSON record.

    fuzz     mutated inputs to all readers: no traceback, no hang, no memory over 2 GiB

`causalcine bench reliability --out FILE.json` makes all parts; --case picks some, --repeats sets
the number of inputs.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import write
from causalcine_jax.errors import UsageError, nearest, raise_faults

SCHEMA = "causalcine/reliability@1"
COUNTS = {"fuzz": 2000}


def reliability(
    names: tuple[str, ...],
    count: int | None,
    out: Path | None,
    say: Callable[[str], None],
    seed: int = 0,
) -> dict:
    """Runs the parts `names` (empty: all); returns the record, written to `out` after each part.

    Args:
      count: inputs, in place of COUNTS.

    Raises:
      UsageError: an unknown part, or a count below 1.
      DataError: a part cannot be run.
    """
    raise_faults(
        "reliability",
        [f"unknown case {name!r}, {nearest(name, COUNTS)}" for name in names if name not in COUNTS],
    )
    if count is not None and count < 1:
        raise UsageError(f"repeats must be at least 1, not {count}")
    from benchmarks.fuzz import fuzz
    from causalcine_jax.film.record import made_here

    made = made_here()
    made["command"] = "causalcine bench reliability"  # the flags name folders of this machine
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"schema": SCHEMA, "date": date, **made, "parts": {}}
    failed = out.with_suffix(".failed") if out else None
    functions = {
        "fuzz": lambda number: fuzz(number, seed, failed, say),
    }
    for name in names or COUNTS:
        say(f"{name} ...")
        record["parts"][name] = functions[name](count or COUNTS[name])
        if out:
            write(record, out)
    return record


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
