"""Checks whether a device reaches its targets (target_list.py).

Makes all their runs, one after the other, and a table of what was measured.

    TARGETS["h200"] --bench.py, a record per run--> FOLDER/<run>.json
        --> FOLDER/targets.md: number, bound, measured, met

If a run fails, its record says so and the next run begins. What a record holds is not measured
again, so that hours of a rented device are not lost: the same command measures what is missing
or failed. An unfinished run of other software is measured from the start. A finished one counts,
and its commit is named.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.bench import bench, faults, in_process, made, missing_peers, without, write
from benchmarks.settings import Settings
from benchmarks.sources import software
from benchmarks.target_list import TARGETS, Hardware, TargetRun
from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.utils.atomic_file import write_text


def measure_targets(
    device: str, folder: Path, configs: str, say: Callable[[str], None]
) -> tuple[str, list[str]]:
    """Measures what is missing in `folder` of a device's runs.

    Returns the table, also written to `folder`/targets.md, and why anything was not measured.

    Raises:
      UsageError: the device has no targets, or is not the one that jax computes on here.
      DataError: `folder` cannot be written, or holds something else under a record's name.
    """
    if device not in TARGETS:
        raise UsageError(f"no targets for {device!r}, {nearest(device, TARGETS)}")
    hardware = TARGETS[device]
    found = in_process("device", Settings(hardware.runs[0].settings["preset"]))["device"]
    check_device(device, hardware, found)
    if found["kind"] != hardware.kind:
        say(f"the targets are for {hardware.kind}; this is measured on {found['kind']}")
    folder = made(folder.absolute())
    file = lambda run: folder / f"{run.name}.json"
    records = {run.name: _read(file(run), found["kind"], run) for run in hardware.runs}
    here = software()

    def keep(run: TargetRun, record: dict) -> None:
        records[run.name] = record
        write(record, file(run))
        _write_table(hardware, records, folder)

    for run in hardware.runs:
        record = records[run.name]
        if _done(record) and record["software"]["commit"] != here["commit"]:
            say(
                f"{run.name}: {file(run)} is of commit {record['software']['commit']}, "
                f"and this is {here['commit']}"
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
    """Checks that the targets' runs suit the device `here` (platform, kind, count).

    Another card than the one that the targets name is measured, and the table names it.

    Raises:
      UsageError: they do not.
    """
    if (here["platform"] == "cpu") != (hardware.platform == "cpu"):
        install = (
            f'install jax for it (pip install -c constraints.txt -e "{hardware.install}"), or '
        )
        raise UsageError(
            f"the targets for {device} hold for {hardware.kind}, and jax computes on "
            f"{here['kind']} here: {install}measure part by part (bench.py PART --preset ...)"
        )
    if hardware.devices not in (None, here["count"]):
        raise UsageError(
            f"the targets for {device} hold for {hardware.devices} device, and jax sees "
            f"{here['count']}: set CUDA_VISIBLE_DEVICES=0"
        )


def targets_table(hardware: Hardware, records: dict[str, dict]) -> str:
    """Returns Markdown, a row per target: what was measured so far, or why nothing was."""
    rows = ["| target | bound | measured | | run |", "|---|---|---|---|---|"]
    for run in hardware.runs:
        record = records[run.name]
        for target in run.targets:
            value = number_of(record, target.number)
            measured, verdict = (
                ("", why_not(run, record))
                if value is None
                else (target.shown(value), target.verdict(value))
            )
            verdict = verdict.replace("|", "/")
            rows.append(
                f"| {target.words} | {target.bound} | {measured} | {verdict} | {run.name} |"
            )
    beside = [
        f"{name}: {without(record['missing_peers'])}"
        for name, record in records.items()
        if "missing_peers" in record
    ]
    places = {name: _on(record) for name, record in records.items() if record.get("device")}
    heads = [
        f"{on}: {', '.join(name for name in places if places[name] == on)}"
        for on in dict.fromkeys(places.values())
    ]
    return "\n\n".join(
        [
            "\n".join(rows),
            *(["\n".join(beside)] if beside else []),
            *(["\n".join(heads)] if heads else []),
        ]
    )


def why_not(run: TargetRun, record: dict) -> str:
    """Returns why part of a run was not measured; empty if all was measured."""
    if not record:
        return "not measured yet"
    if missing := record.get("missing_peers"):
        return "; ".join([*faults(record), f"not measured: {without(missing)}"])
    if record.get("unfinished"):
        return "; ".join([*faults(record), f"not measured yet: {', '.join(record['unfinished'])}"])
    lacking = [target.number for target in run.targets if number_of(record, target.number) is None]
    return "; ".join(faults(record)) or ", ".join(
        f"its record says no {number}" for number in lacking
    )


def _write_table(hardware: Hardware, records: dict[str, dict], folder: Path) -> str:
    table = targets_table(hardware, records)
    write_text(folder / "targets.md", table + "\n")
    return table


def _on(record: dict) -> str:
    device, software = record["device"], record["software"]
    return (
        f"{device['count']} x {device['kind']}, {record['machine']['cores']} cores, "
        f"jax {software['jax']}, commit {software['commit']}, {record['date'][:10]}"
    )


def _done(record: dict) -> bool:
    """Whether the run needs no measuring. A peer that is still missing does not matter."""
    return (
        bool(record)
        and not record.get("unfinished")
        and not faults(record)
        and set(record.get("missing_peers", ())) <= set(missing_peers())
    )


def _begun(record: dict, here: dict) -> dict | None:
    """Returns the record if new measurements can join it, else None.

    It must be by the same code, and measured with all peers.
    """
    same = bool(record) and record["software"] == here and not record.get("missing_peers")
    return record if same else None


def _read(file: Path, here: str, run: TargetRun) -> dict:
    """Returns the run's record, or {} if it is missing, of other settings or another device."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind = (record["device"] or {"kind": here})["kind"]
        same = record["settings"] == Settings(**run.settings).recorded() and {
            *record["parts"],
            *record.get("unfinished", ()),
        } == set(run.parts)
        return record if same and kind == here else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no record of bench.py ({error}): delete it to measure again"
        ) from error


def number_of(record: dict, path: str) -> float | None:
    """Returns the number at part.name.name of a record; None if it was not measured."""
    value = record.get("parts", {})
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
