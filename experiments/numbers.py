"""A table's measured numbers, by row and column: the report reads measurements only here."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from causalcine_jax.evaluation.intervals import Grouped, Interval, bootstrap_grouped
from experiments import scores
from experiments.commands import Workshop
from experiments.measure import found, stills, table_measurements
from experiments.plan import Row, Table


@dataclass(frozen=True)
class Numbers:
    """The measurements of `table` that exist in `workshop`."""

    workshop: Workshop
    table: Table
    seeds: int

    def saved(self, kind: str, row: Row) -> list[dict[str, Any]]:
        """Returns a row's measurements of one kind, one per seed; empty if any is missing."""
        names = table_measurements(self.workshop, self.table, kind, row, self.seeds)
        saved = [
            one
            for name, seed in sorted(names.items(), key=lambda item: item[1])
            if (one := found(self.workshop, name, seed))
        ]
        return saved if len(saved) == len(names) else []

    def scores(
        self, row: Row, column: str, *, key: str | None = None, seed: int | None = None
    ) -> Grouped | None:
        """Returns the scores of a row, or of `key` beside it, in a column.

        They are of one seed, or added up over all; None if there are none.
        """
        kind, metric = column.split(".")
        saved = self.saved(kind, row)
        pairs = [
            one["scores"].get(key or row.key, {}).get(metric)
            for one in (saved if seed is None else saved[seed : seed + 1])
        ]
        return scores.grouped(pairs) if pairs and all(pairs) else None

    def interval(self, row: Row, column: str, **which) -> Interval | None:
        found = self.scores(row, column, **which)
        return None if found is None else bootstrap_grouped(found)

    def seeds_of(self, row: Row) -> int:
        """Returns with how many seeds the row's model was trained; 1 for one used as it is."""
        return len({self.workshop.made(row.run, seed) for seed in range(self.seeds)})

    def row(self, key: str) -> Row:
        return next(row for row in self.table.rows if row.key == key)

    @property
    def all_saved(self) -> list[dict[str, Any]]:
        """Returns every measurement of the table, each once."""
        names = {
            name: seed
            for kind in self.table.kinds
            for row in self.table.rows
            for name, seed in table_measurements(
                self.workshop, self.table, kind, row, self.seeds
            ).items()
        }
        return [
            saved for name, seed in names.items() if (saved := found(self.workshop, name, seed))
        ]

    def along(self, row: Row, column: str) -> list[Interval]:
        """Returns a metric by part of the film; empty if it was not measured that way."""
        parts: list[Interval] = []
        while (part := self.interval(row, f"{column}@{len(parts) + 1}")) is not None:
            parts.append(part)
        return parts

    def films(self, kind: str) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
        """Returns titles and captions of the shown films, and each row's stills, by label.

        They are of the first seed.
        """
        shown, rows = [], {}
        for row in self.table.rows:
            [name] = table_measurements(self.workshop, self.table, kind, row, 1)
            if (saved := found(self.workshop, name, 0)) and (
                kept := stills(self.workshop, name, row.key)
            ):
                shown, rows[row.label] = saved["shown"], kept
        return shown, rows
