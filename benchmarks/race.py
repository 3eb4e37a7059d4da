"""Races our rollout against Self-Forcing's in plain torch, and compares the films.

Both have the same weights, prompt and noise.

    for every case: ours, theirs, ours, theirs, ...
        -> record {schema, device, software, settings, cases, roofline} -> a table

Called again with the same file, it makes the missing turns, if the same software made the others.
If torch is missing, only our side is measured, and the record names it under `missing_peers`.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bench import in_process, missing_peers, read, without, write
from benchmarks.race_cases import CASES, PEER, STEP_LIST, RaceCase, precision
from benchmarks.roofline import roofline, roofline_table
from benchmarks.sources import software
from benchmarks.timing import spread
from causalcine_jax.cli import cores
from causalcine_jax.errors import choice_faults, raise_faults, range_faults

SCHEMA = "causalcine/race@1"
DTYPES = ("float32", "bfloat16")
# How far two films may differ, relative to their norm. In bfloat16 each side rounds differently.
LIMITS = {"float32": 1e-5, "bfloat16": 5e-2}
TURNS = 3
ROOFLINE = "roofline"  # measured beside the cases
NEEDS = ("torch",)


@dataclasses.dataclass(frozen=True)
class Race:
    """A requested race.

    names   of CASES, and `roofline`
    turns   films of each side in every case

    Raises:
      UsageError: lists every fault.
    """

    names: tuple[str, ...] = (*CASES, ROOFLINE)
    dtype: str = "float32"
    turns: int = TURNS

    def __post_init__(self):
        faults: list[str] = []
        for name in self.names:
            faults += choice_faults("case", name, (*CASES, ROOFLINE))
        faults += choice_faults("dtype", self.dtype, DTYPES)
        faults += range_faults("repeats", self.turns, 1)
        raise_faults("race", faults)


def race(asked: Race, out: Path | None, say: Callable[[str], None]) -> dict:
    """Measures what is requested; returns the record, written to `out` after every film.

    Raises:
      DataError: a process failed, or `out` cannot be read or written. Films measured before are
        in `out`.
    """
    record, missing = _begun(asked, out, say), [name for name in missing_peers() if name in NEEDS]
    record["missing_peers"] = missing
    if missing:
        say(f"theirs is left out: {without(missing)}")

    def keep() -> None:
        if out:
            write(record, out)

    for name in asked.names:
        if name == ROOFLINE:
            continue
        case, turns = CASES[name], record["cases"].get(name, {}).get("turns", [])
        with tempfile.TemporaryDirectory(prefix="race.") as folder:
            while len(turns) < asked.turns:
                say(f"{name}, turn {len(turns) + 1} of {asked.turns} ...")
                turns.append(_turn(case, asked.dtype, Path(folder), record, bool(missing)))
                record["cases"][name] = {
                    "film": case.to_dict(),
                    **_summary(case, turns),
                    "turns": turns,
                }
                keep()
    if ROOFLINE in asked.names and ROOFLINE not in record:
        raced = {name: CASES[name] for name in record["cases"]}
        record[ROOFLINE] = roofline(raced, record["cases"], asked.dtype, not missing, say)
        keep()
    return record


def faults(record: dict) -> list[str]:
    """Lists the cases whose films differ by more than rounding."""
    limit = LIMITS[record["settings"]["dtype"]]
    found = {name: case.get("difference") for name, case in record["cases"].items()}
    too_far = {
        name: value for name, value in found.items() if value is not None and not value <= limit
    }
    return [
        f"{name}: the films differ by {value:.2g}, more than {limit:g}"
        for name, value in too_far.items()
    ]


def race_table(record: dict) -> str:
    """Returns Markdown, a row per case.

    Seconds are per chunk, the median over all films and chunks.
    """
    rows = [
        "| case | theirs | ours | speed | first chunk, last | memory | films differ by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in record["cases"].items():
        sides = [case.get("theirs"), case["ours"]]
        shown = [_seconds(side["seconds"]) if side else "not measured" for side in sides]
        ends = " / ".join(
            f"{side['by_chunk'][0]:.2f}, {side['by_chunk'][-1]:.2f}" for side in sides if side
        )
        memory = " / ".join(f"{side['memory']['peak'] / 1e9:.2f} GB" for side in sides if side)
        speed, difference = case.get("speed"), case.get("difference")
        faster = (
            f"{speed['median']:.2f}x ({speed['lowest']:.2f} to {speed['highest']:.2f})"
            if speed
            else ""
        )
        apart = "" if difference is None else f"{difference:.1e}"
        rows.append(f"| {name} | {' | '.join(shown)} | {faster} | {ends} | {memory} | {apart} |")
    software = record["software"]
    on = (
        f"{record['settings']['dtype']}, {record['machine']['cores']} cores, "
        f"jax {software['jax']}, torch {record.get('torch')}"
    )
    head = f"{on}, commit {software['commit']}; theirs / ours"
    return "\n".join(
        [head, "", *rows, *(roofline_table(record[ROOFLINE]) if ROOFLINE in record else [])]
    )


def _turn(case: RaceCase, dtype: str, folder: Path, record: dict, alone: bool) -> dict:
    """Makes a film of ours, then one of theirs.

    Compares them over the chunks for which both attend to the same frames.
    """
    inputs = folder / "inputs.npz"
    films = {side: folder / f"{side}.npy" for side in ("ours", "theirs")}
    given: dict[str, Any] = {"case": case.to_dict(), "dtype": dtype}
    given["environment"] = precision(dtype)
    answer = in_process("race_ours", None, film=str(films["ours"]), **given)
    record["device"], turn = answer["device"], {"ours": answer["result"]}
    if alone:
        return turn
    if not inputs.exists():
        in_process("race_inputs", None, file=str(inputs), **given)
    theirs = in_process(
        "race_theirs", None, inputs=str(inputs), film=str(films["theirs"]), **given
    )["result"]
    record["torch"], record["torch_device"] = theirs.pop("torch"), theirs.pop("torch_device")
    ours_film, theirs_film = (np.load(file)[: case.same_chunks] for file in films.values())
    difference = float(np.linalg.norm(ours_film - theirs_film) / np.linalg.norm(theirs_film))
    return {**turn, "theirs": theirs, "difference": difference}


def _summary(case: RaceCase, turns: list[dict]) -> dict[str, Any]:
    """Summarises all films of a case.

    speed        theirs / ours over a film, turn by turn
    same_chunks  number of first chunks that `difference` compares: for them, both sides attend to
                 the same frames
    """
    sides = [side for side in ("ours", "theirs") if side in turns[0]]
    summary: dict[str, Any] = {
        side: _side([turn[side] for turn in turns if side in turn]) for side in sides
    }
    both = [turn for turn in turns if "theirs" in turn]
    if both:
        ratios = [sum(turn["theirs"]["seconds"]) / sum(turn["ours"]["seconds"]) for turn in both]
        summary["speed"] = {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        summary["difference"], summary["same_chunks"] = (
            max(turn["difference"] for turn in both),
            case.same_chunks,
        )
    return summary


def _side(films: list[dict]) -> dict[str, Any]:
    by_chunk = list(zip(*(film["seconds"] for film in films), strict=True))
    return {
        "seconds": spread([seconds for film in films for seconds in film["seconds"]]),
        "by_chunk": [median(seconds) for seconds in by_chunk],
        "memory": max((film["memory"] for film in films), key=lambda memory: memory["peak"]),
    }


def _begun(asked: Race, out: Path | None, say: Callable[[str], None]) -> dict:
    """Returns the record in `out` if new measurements can join it, else a new record."""
    here = software()
    sampler = dataclasses.asdict(PEER.sampler) | {"step_list": list(STEP_LIST)}
    settings = {"dtype": asked.dtype, "sampler": sampler}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    new = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "software": here,
        "machine": {"cores": len(cores()), "load_average": load},
        "device": None,
        "cases": {},
    }
    if out is None or not out.exists():
        return new
    record = read(out, SCHEMA, "a race")
    same = (record.get("settings"), record.get("software")) == (settings, here)
    if not same or record.get("missing_peers"):
        why = "it was made by other software, in another dtype or without torch"
        say(f"{out} is measured again from the start: {why}")
        return new
    return record


def _seconds(seconds: dict[str, float]) -> str:
    return f"{seconds['median']:.2f} s ({seconds['shortest']:.2f} to {seconds['longest']:.2f})"
