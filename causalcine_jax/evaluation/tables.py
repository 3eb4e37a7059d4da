"""What all reports share: markdown tables, numbers as text, intervals as plain JSON, two files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causalcine_jax.evaluation.intervals import Interval
from causalcine_jax.utils.atomic_file import write_text


def markdown_table(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns the lines of a table, with columns padded so that the text reads well too."""
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    line = lambda row: (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
    )
    return [
        line(head),
        "|" + "|".join("-" * (width + 2) for width in widths) + "|",
        *map(line, body),
    ]


def number_text(value: dict | float | None) -> str:
    """Formats a number or an interval, without bounds if it has none; "-" if nothing was asked."""
    if isinstance(value, dict):
        if not value["count"]:
            return "-"
        if value["low"] is None:
            return number_text(value["value"])
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return "-" if value is None else f"{value:.3f}"


def plain(value: Any) -> Any:
    """Converts intervals to dicts and NaN to null: strict JSON."""
    if isinstance(value, Interval):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_report(folder: Path, name: str, report: dict[str, Any], text: str) -> None:
    """Writes `text` as NAME.md, then `report` as NAME.json; each is complete under its name."""
    for file, content in ((f"{name}.md", text), (f"{name}.json", json.dumps(report, indent=1))):
        write_text(folder / file, content)
