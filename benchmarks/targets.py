"""Whether a device reaches its targets (target_list.py): all their runs, one after the other, and a table of what was measured.

    TARGETS["h200"] --bench.py, a record per run--> FOLDER/<run>.json --> FOLDER/targets.md: number, bound, measured, met

A run that fails is recorded as failed, and the next begins. What a record holds is not measured again, so that hours of a rented device are not lost: the
same command goes on with what is missing or failed. Of a run that was begun by other software nothing is taken; one that was ended by it counts, and is named.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.bench import bench, faults, in_process, made, missing_peers, without, write
from benchmarks.settings import Settings
from benchmarks.target_list import TARGETS, Hardware, Run
from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.film.record import software
from causalcine_jax.utils.atomic_file import atomic_file


def measure_targets(
    device: str, folder: Path, configs: str, say: Callable[[str], None]
) -> tuple[str, list[str]]:
    """Measures what is missing in `folder` of a device's runs; returns the table, which `folder`/targets.md holds too, and what could not be measured, and why.

    Raises:
      UsageError: no targets are known for such a device, or it is not what jax computes on here.
      DataError: `folder` cannot be written, or holds something else under a record's name.
    """
    if device not in TARGETS:
        raise UsageError(f"no targets for {device!r}, {nearest(device, TARGETS)}")
    hardware = TARGETS[device]
    check_device(
        device,
        hardware,
        in_process("device", Settings(hardware.runs[0].settings["preset"]))["device"],
    )
    folder = made(folder.absolute())
    file = lambda run: folder / f"{run.name}.json"
    records = {run.name: _read(file(run), hardware, run) for run in hardware.runs}
    here = software()

    def keep(run: Run, record: dict) -> None:
        records[run.name] = record
        write(record, file(run))
        _write_table(hardware, records, folder)

    for run in hardware.runs:
        record = records[run.name]
        if _done(record) and record["software"]["commit"] != here["commit"]:
            say(
                f"{run.name}: {file(run)} is of commit {record['software']['commit']}, and this is {here['commit']}"
            )
    for run in hardware.runs:
        if _done(records[run.name]):
            say(f"{run.name}: {file(run)} is there (delete it to measure again)")
            continue
        say(f"{run.name}: {' '.join(run.parts)}")
        begun = _begun(records[run.name], here)
        bench(
            Settings(configs=configs, **run.settings),
            run.parts,
            folder,
            say,
            partial(keep, run),
            begun,
        )
    unmeasured = [
        f"{run.name}: {reason}"
        for run in hardware.runs
        if (reason := why_not(run, records[run.name]))
    ]
    return _write_table(hardware, records, folder), unmeasured


def check_device(device: str, hardware: Hardware, here: dict) -> None:
    """`UsageError` where `here` (platform, kind, count) is not what the targets hold for."""
    if (here["platform"], here["kind"]) != (hardware.platform, hardware.kind):
        found = here["platform"] == hardware.platform
        install = (
            ""
            if found
            else f'install jax for it (pip install -c constraints.txt -e "{hardware.install}"), or '
        )
        raise UsageError(
            f"the targets for {device} hold for {hardware.kind}, and jax computes on {here['kind']} here: {install}measure part by part (bench.py PART --preset ...)"
        )
    if hardware.devices not in (None, here["count"]):
        raise UsageError(
            f"the targets for {device} are those of {hardware.devices} device, and jax sees {here['count']}: set CUDA_VISIBLE_DEVICES=0"
        )


def targets_table(hardware: Hardware, records: dict[str, dict]) -> str:
    """Markdown: a row per target, with what was measured of it so far, or why it was not."""
    rows = ["| target | bound | measured | | run |", "|---|---|---|---|---|"]
    for run in hardware.runs:
        record = records[run.name]
        for target in run.targets:
            value = _number(record, target.number)
            measured, verdict = (
                ("", why_not(run, record))
                if value is None
                else (target.shown(value), target.verdict(value))
            )
            rows.append(
                f"| {target.words} | {target.bound} | {measured} | {verdict.replace('|', '/')} | {run.name} |"
            )
    beside = [
        f"{name}: {without(record['missing_peers'])}"
        for name, record in records.items()
        if "missing_peers" in record
    ]
    measured = {name: _on(record) for name, record in records.items() if record.get("device")}
    heads = [
        f"{on}: {', '.join(name for name in measured if measured[name] == on)}"
        for on in dict.fromkeys(measured.values())
    ]
    return "\n\n".join(
        [
            "\n".join(rows),
            *(["\n".join(beside)] if beside else []),
            *(["\n".join(heads)] if heads else []),
        ]
    )


def why_not(run: Run, record: dict) -> str:
    """Why something of a run was not measured, in words; empty where all was."""
    if not record:
        return "not measured yet"
    if missing := record.get("missing_peers"):
        return "; ".join([*faults(record), f"not measured: {without(missing)}"])
    if record.get("unfinished"):
        return "; ".join([*faults(record), f"not measured yet: {', '.join(record['unfinished'])}"])
    lacking = [target.number for target in run.targets if _number(record, target.number) is None]
    return "; ".join(faults(record)) or ", ".join(
        f"its record says no {number}" for number in lacking
    )


def _write_table(hardware: Hardware, records: dict[str, dict], folder: Path) -> str:
    table = targets_table(hardware, records)
    with atomic_file(folder / "targets.md") as partial:
        partial.write_text(table + "\n", encoding="utf-8")
    return table


def _on(record: dict) -> str:
    device, software = record["device"], record["software"]
    return f"{device['count']} x {device['kind']}, {record['machine']['cores']} cores, jax {software['jax']}, commit {software['commit']}, {record['date'][:10]}"


def _done(record: dict) -> bool:
    """Whether the run need not be measured, or not again: a peer that is missing still is no reason."""
    return (
        bool(record)
        and not record.get("unfinished")
        and not faults(record)
        and set(record.get("missing_peers", ())) <= set(missing_peers())
    )


def _begun(record: dict, here: dict) -> dict | None:
    """The record where what it holds can stand beside what is measured now: by the same software and, failing peers that were missing, whole."""
    return (
        record
        if record and record["software"] == here and not record.get("missing_peers")
        else None
    )


def _read(file: Path, hardware: Hardware, run: Run) -> dict:
    """The run's record; nothing where there is none, or one of other settings, or of another device."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind = (record["device"] or {"kind": hardware.kind})["kind"]
        same = record["settings"] == Settings(**run.settings).recorded() and {
            *record["parts"],
            *record.get("unfinished", ()),
        } == set(run.parts)
        return record if same and kind == hardware.kind else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no record of bench.py ({error}): delete it to measure again"
        ) from error


def _number(record: dict, place: str) -> float | None:
    """The number at part.name.name of a record; None where it was not measured."""
    value = record.get("parts", {})
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
