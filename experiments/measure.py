"""Measurements on disk: each is made once, saved as JSON, and found again by what it measured.

    a row + a kind -> OUT/measurements/NAME.json, and NAME.npz with stills
    (one file has all of a table's rows, if they are measured in turn)

A saved measurement is used again if it is of at least as many films. Weights, memory, sampler,
world, seed, judge and version must be the same. The report shows a measurement only if
its model exists, with the weights that were measured.
"""

import dataclasses
import functools
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.cli import cores
from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import weights_hash
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError
from causalcine_jax.evaluation.storyworld import judge
from causalcine_jax.evaluation.storyworld.config import HELD_OUT_SEED
from causalcine_jax.film.model_folder import load_model, model_defaults
from causalcine_jax.film_folder.record import pretty
from causalcine_jax.storyworld import WORLDS
from causalcine_jax.utils.atomic_file import atomic_file, file_hash, write_text
from causalcine_jax.utils.environment import device, software
from experiments import kinds, long_films
from experiments.commands import Workshop
from experiments.kinds import Amounts, KindResults, Subject
from experiments.plan import Row, Table
from experiments.tables import TABLES


@dataclass(frozen=True)
class MeasuredKind:
    """A way to measure.

    amounts   the fields of `Amounts` on which it depends
    together  measures all rows of a table in turn
    version   to increase whenever what is measured changes
    """

    measure: Any
    amounts: tuple[str, ...]
    together: bool = False
    version: int = 1


KINDS = {
    "recall": MeasuredKind(kinds.recall, ("returns",), version=2),
    "films": MeasuredKind(kinds.films, ("films",)),
    "speed": MeasuredKind(kinds.speed, (), together=True),
    "drift": MeasuredKind(long_films.drift, ("long_films",)),
    "long": MeasuredKind(long_films.long, ("long_films",), version=2),
    "endless": MeasuredKind(long_films.endless, ("endless_films",), version=2),
}


@dataclass(frozen=True)
class Measurement:
    """Rows to measure in one kind, with models of one seed. The name identifies it."""

    kind: str
    rows: tuple[Row, ...]
    seed: int
    name: str


def measurements(workshop: Workshop, tables: list[str], seeds: int) -> list[Measurement]:
    """Returns all that the tables need, each once, in the order of the tables."""
    found: dict[str, Measurement] = {}
    for name in tables:
        table = TABLES[name]
        for kind in table.kinds:
            for seed in range(seeds):
                for rows in (
                    [table.rows] if KINDS[kind].together else [(row,) for row in table.rows]
                ):
                    measurement = Measurement(kind, rows, seed, named(workshop, kind, rows, seed))
                    found.setdefault(measurement.name, measurement)
    return list(found.values())


def named(workshop: Workshop, kind: str, rows: tuple[Row, ...], seed: int) -> str:
    """Returns the name of a measurement's file: its kind, then each row's run and memory.

    A run's name has its seed, if there is more than one.
    """
    return "-".join(
        [kind, *(row.key.replace(row.run, workshop.made(row.run, seed), 1) for row in rows)]
    )


def measure(workshop: Workshop, wanted: Measurement, amounts: Amounts) -> bool:
    """Makes the measurement, or finds it. Returns False if one of its models is missing."""
    if not all(workshop.is_there(row.run, wanted.seed) for row in wanted.rows):
        return False
    kind = KINDS[wanted.kind]
    folders = {row.key: workshop.model(row.run, wanted.seed) for row in wanted.rows}
    settings = {
        "kind": wanted.kind,
        "version": kind.version,
        "judge_sha256": file_hash(judge.WEIGHTS),
        "world": workshop.scale.world,
        "seed": HELD_OUT_SEED,
        "amounts": {name: getattr(amounts, name) for name in kind.amounts},
        "rows": {row.key: _row_settings(row, folders[row.key]) for row in wanted.rows},
    }
    known = load(workshop, wanted.name)
    if known is not None and _covers(known["settings"], settings):
        return True
    print(f"\n{wanted.name}: measuring", flush=True)
    began = time.monotonic()
    models = {folder: load_model(folder) for folder in set(folders.values())}
    rows = ((row, models[folders[row.key]]) for row in wanted.rows)
    subjects = {row.key: Subject(model, _memory(row, model.memory)) for row, model in rows}
    result = kind.measure(subjects, WORLDS[workshop.scale.world](), amounts)
    _save(workshop, wanted.name, settings, result, time.monotonic() - began)
    return True


def _row_settings(row: Row, folder: Path) -> dict[str, Any]:
    """Describes the measured model, its sampler and its memory."""
    defaults = model_defaults(folder)
    return {
        "model": str(folder),
        "weights_sha256": weights_hash(folder),
        "sampler": dataclasses.asdict(defaults.get("sampler", SamplerConfig())),
        "memory": dataclasses.asdict(_memory(row, defaults.get("memory", MemoryConfig()))),
    }


def _memory(row: Row, default: MemoryConfig) -> MemoryConfig:
    changed: dict[str, Any] = dict(row.memory)
    return dataclasses.replace(default, **changed)


def load(workshop: Workshop, name: str) -> dict[str, Any] | None:
    """Returns a saved measurement, or None.

    Raises:
      DataError: it cannot be read.
    """
    path = _path(workshop, name)
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return saved if saved["settings"] and saved["scores"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a measurement ({error!r}): delete it, and it will be made again"
        ) from error


def found(workshop: Workshop, name: str, seed: int) -> dict[str, Any] | None:
    """As `load`, but None if a measured model is missing, or has other weights now."""
    saved = load(workshop, name)
    if saved is None:
        return None
    for key, row in saved["settings"]["rows"].items():
        run = key.split("+")[0]
        if (
            not workshop.is_there(run, seed)
            or _hash(workshop.model(run, seed)) != row["weights_sha256"]
        ):
            return None
    return saved


_hash = functools.cache(weights_hash)


def stills(workshop: Workshop, name: str, key: str) -> list[np.ndarray]:
    """Returns the frames kept of a row's first films; an empty list if there are none."""
    path = _path(workshop, name).with_suffix(".npz")
    if not path.is_file():
        return []
    with np.load(path) as kept:
        return [kept[field] for field in sorted(kept.files) if field.rsplit("/", 1)[0] == key]


def _covers(known: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a measurement is of what is wanted, wherever the models were, and as large."""

    def what(settings):
        rows = {
            key: {name: value for name, value in row.items() if name != "model"}
            for key, row in settings["rows"].items()
        }
        # A memory field added after the measurement had its default then.
        for row in rows.values():
            row["memory"] = dataclasses.asdict(MemoryConfig()) | row["memory"]
        return json.loads(json.dumps({**settings, "rows": rows, "amounts": None}))

    return what(known) == what(wanted) and all(
        known["amounts"].get(name, 0) >= count for name, count in wanted["amounts"].items()
    )


def _save(
    workshop: Workshop, name: str, settings: dict[str, Any], result: KindResults, seconds: float
) -> None:
    path = _path(workshop, name)
    if result.stills:
        films: dict[str, Any] = {
            f"{key}/{i}": film for key, kept in result.stills.items() for i, film in enumerate(kept)
        }
        with atomic_file(path.with_suffix(".npz")) as partial, open(partial, "wb") as opened:
            np.savez_compressed(opened, **films)
    record = {
        "settings": settings,
        "seconds": round(seconds, 1),
        "command": shlex.join(["python", *sys.argv]),
        "device": {**device(), "cores": len(cores())},
        "software": software(),
        "shown": result.shown,
        "scores": {
            key: {metric: [list(pair) for pair in pairs] for metric, pairs in of.items()}
            for key, of in result.scores.items()
        },
    }
    write_text(path, pretty(record) + "\n")


def _path(workshop: Workshop, name: str) -> Path:
    return workshop.out / "measurements" / f"{name}.json"


def table_measurements(
    workshop: Workshop, table: Table, kind: str, row: Row, seeds: int
) -> dict[str, int]:
    """Returns the names of the measurements with a row's numbers of one kind, and their seeds.

    There is one name if the row's model has one seed only.
    """
    rows = table.rows if KINDS[kind].together else (row,)
    return {named(workshop, kind, rows, seed): seed for seed in reversed(range(seeds))}
