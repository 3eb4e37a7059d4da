"""Brings the results of the four commands home: a record, the targets, docs and rates.

half_hour_*.json -> benchmarks/results/DATE_half_hour_CARD.json
    -> the table between the marks in docs/performance.md
    -> planning/attained.json, from the ceilings, if the card is one that plans know

A record of that name is extended: it keeps the parts that the new files do not measure.
"""

import re
from pathlib import Path

from benchmarks import REPOSITORY
from benchmarks.bench import read, write
from benchmarks.ceilings import keep_rates
from benchmarks.half_hour.commands import SCHEMA, unmeasured
from benchmarks.target_list import TARGETS, Hardware
from benchmarks.targets import number_of
from causalcine_jax.errors import DataError
from causalcine_jax.utils.atomic_file import write_text

BEGIN, END = "<!-- half hour: begin -->", "<!-- half hour: end -->"
PAGE = Path("docs") / "performance.md"


def collect(files: list[Path], home: Path = REPOSITORY) -> str:
    """Returns the table of targets; writes record, page and rates below `home`.

    Raises:
      DataError: a file is no result, is a rehearsal, or the files are of several devices.
    """
    records = [_read(file) for file in files]
    kind, _ = _device(records)
    dates = [
        one["record"]["date"] for record in records for one in record["parts"] if one.get("record")
    ]
    date = min(dates)[:10] if dates else "undated"
    name = f"{date}_half_hour_{re.sub(r'[^a-z0-9]+', '_', kind.lower()).strip('_')}.json"
    file = home / "benchmarks" / "results" / name
    before = read(file, SCHEMA, "benchmarks.half_hour")["commands"] if file.exists() else []
    records = _merged([*before, *records])
    kind, count = _device(records)
    measured = {one["part"]: one for record in records for one in record["parts"]}
    write({"schema": SCHEMA, "commands": records}, file)
    table = targets_table(TARGETS["h200"], measured, kind)
    missing = [line for record in records for line in unmeasured(record)]
    lines = [
        f"Measured on {count} x {kind}, {date}, by `python -m benchmarks.half_hour` "
        f"([record](../benchmarks/results/{name})).",
        table,
        *(["Not measured: " + "; ".join(missing) + "."] if missing else []),
    ]
    _write_page(home / PAGE, "\n\n".join(lines))
    # 14B last: only the rate of narrow products is better known at 1.3B's sizes.
    for part in ("ceilings_1.3b", "ceilings_14b"):
        if (record := measured.get(part, {}).get("record")) is not None:
            keep_rates(record, f"benchmarks/results/{name}")
    return table


def targets_table(hardware: Hardware, measured: dict[str, dict], kind: str) -> str:
    """Markdown: every target, what this card measured, and whether it is met.

    A card that the targets are not for has its numbers and no verdict.
    """
    rows = ["| target | bound on " + hardware.kind + " | measured | |", "|---|---|---|---|"]
    for run in hardware.runs:
        record = measured.get(run.name, {}).get("record") or {}
        for target in run.targets:
            value = number_of(record, target.number)
            verdict = "not measured" if value is None else target.verdict(value)
            if value is not None and kind != hardware.kind:
                verdict = f"on {kind}"
            shown = "" if value is None else target.shown(value)
            rows.append(f"| {run.name}: {target.words} | {target.bound} | {shown} | {verdict} |")
    return "\n".join(rows)


def _read(file: Path) -> dict:
    record = read(file, SCHEMA, "benchmarks.half_hour")
    if "rehearsal" not in record or record["rehearsal"]:
        why = "a rehearsal" if "rehearsal" in record else "several commands, collected"
        raise DataError(f"{file} is {why}: give the half_hour_N.json of an accelerator")
    return record


def _device(records: list[dict]) -> tuple[str, int]:
    devices = {(record["device"]["kind"], record["device"]["count"]) for record in records}
    if len(devices) != 1:
        raise DataError(f"results of several devices: {', '.join(sorted(map(str, devices)))}")
    return devices.pop()


def _merged(records: list[dict]) -> list[dict]:
    """Commands in their order, with each part once: the last of those that were measured.

    A part that none measured is there as the last one has it.
    """
    last: dict[str, tuple[bool, int]] = {}
    for place, record in enumerate(records):
        for one in record["parts"]:
            last[one["part"]] = max(last.get(one["part"], (False, 0)), (one["code"] == 0, place))
    kept = [
        record | {"parts": [one for one in record["parts"] if last[one["part"]][1] == place]}
        for place, record in enumerate(records)
    ]
    return sorted((one for one in kept if one["parts"]), key=lambda record: record["command"])


def _write_page(page: Path, text: str) -> None:
    """Replaces what is between the marks."""
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise DataError(f"{page} has no lines {BEGIN} and {END}: put them where the table belongs")
    write_text(page, f"{before}{BEGIN}\n{text}\n{END}{after}")
