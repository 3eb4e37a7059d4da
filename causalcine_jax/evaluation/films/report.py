"""The report on a folder of films: numbers with intervals over films, as JSON and as tables."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.evaluation.films.run import Measured, Measurer
from causalcine_jax.evaluation.intervals import (
    Grouped,
    Interval,
    bootstrap_grouped,
    bootstrap_mean,
)
from causalcine_jax.evaluation.metrics.shot_cuts import PAPER_CALIBRATED, TOLERANCES, Detection
from causalcine_jax.evaluation.tables import markdown_table, number_text, plain
from causalcine_jax.film.record import device, software
from causalcine_jax.utils.atomic_file import atomic_file

KINDS = {"asked": "prompted ranges", "found": "detected ranges"}
OF_RANGES = {
    "alignment": "text alignment (ViCLIP)",
    "subject": "subject consistency (DINO)",
    "background": "background consistency (CLIP)",
    "inter_shot": "inter-shot consistency (DINOv2)",
    "returns": "of these, returns after an absence",
    "returns_gated": "returns, 0 where a shot is not as its caption says",
    "dynamics": "dynamics (grey levels a second)",
}


def film_report(measured: Measured, measurer: Measurer, notes: Sequence[str]) -> dict[str, Any]:
    """All that was measured as plain JSON; intervals are {value, low, high, count}."""
    films = list(measured.films.values())
    return plain(
        {
            "settings": {
                **vars(measurer.settings),
                "weights_sha256": dict(measurer.weights),
                "sca_penalty": PAPER_CALIBRATED,
            },
            "software": software(),
            "device": device(),
            "intervals": "95 %, percentile bootstrap over films",
            "films": len(films),
            "bad": measured.bad,
            "without_story": measured.without_story,
            "without_film": measured.without_film,
            "left_out": measurer.scorers.left_out,
            "notes": list(notes),
            "aesthetic": _mean(film["aesthetic"] for film in films),
            "cuts": _cuts(films),
            **{
                kind: {
                    name: _mean(film[kind]["means"][name] for film in films) for name in OF_RANGES
                }
                for kind in KINDS
            },
            "absences": {kind: _absences(film[kind]["pairs"] for film in films) for kind in KINDS},
            "by_label": _by_label(films),
            "shots_beyond_the_end": sum(film["shots_beyond_the_end"] for film in films),
            "captions_cut": sum(lost > 0 for film in films for lost in film["tokens_lost"] or ()),
            "tokens_lost": sum(sum(film["tokens_lost"] or ()) for film in films),
            "per_film": measured.films,
        }
    )


def _mean(scores: Iterable[float | None]) -> Interval:
    return bootstrap_mean([math.nan if score is None else score for score in scores])


def _cuts(films: list[dict[str, Any]]) -> dict[str, Any]:
    cuts = [film["cuts"] for film in films]
    matched = sum(each["matched"] for each in cuts)
    per_cut = lambda name: (
        sum(each["matched"] * each[name] for each in cuts) / matched if matched else math.nan
    )
    found: dict[str, Any] = {
        "sca": _mean(each["sca"] for each in cuts),
        "frames_per_cut": per_cut("frames_per_cut"),
        "milliseconds_per_cut": per_cut("milliseconds_per_cut"),
        "missed": _mean(each["missed"] for each in cuts),
        "extra": _mean(each["extra"] for each in cuts),
    }
    for tolerance in TOLERANCES:
        near = sum((Detection(**each["near"][str(tolerance)]) for each in cuts), Detection())
        found |= {
            f"{part}@{tolerance}": getattr(near, part) for part in ("precision", "recall", "f1")
        }
    return found


def _absences(films: Iterable[list[dict[str, Any]] | None]) -> dict[str, dict[str, Interval]]:
    """Similarity of a returning character's shots, by the number of shots that it was away."""
    known = [pairs or [] for pairs in films]
    away = sorted({pair["absence"] for pairs in known for pair in pairs} - {None})
    return {
        str(absence): {name: _over_films(known, absence, name) for name in ("similarity", "gated")}
        for absence in away
    }


def _over_films(films: list[list[dict[str, Any]]], absence: int, name: str) -> Interval:
    scores = [
        [p[name] for p in pairs if p["absence"] == absence and p[name] is not None]
        for pairs in films
    ]
    return bootstrap_grouped(
        Grouped(
            np.array([sum(s) for s in scores], float), np.array([len(s) for s in scores], float)
        )
    )


def _by_label(films: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Interval]]]:
    """The measures on prompted ranges, of the films of every value of a story set's labels."""
    values: dict[str, dict[str, None]] = {}
    for film in films:
        for label, value in film["labels"].items():
            values.setdefault(label, {})[value] = None
    return {
        label: {
            value: {
                name: _mean(
                    f["asked"]["means"][name] for f in films if f["labels"].get(label) == value
                )
                for name in OF_RANGES
            }
            for value in sorted(found)
        }
        for label, found in values.items()
    }


def film_markdown(report: dict[str, Any]) -> str:
    """The tables, and everything that was not measured, by name."""
    cuts = report["cuts"]
    rows = [
        (label, *(number_text(report[kind][name]) for kind in KINDS))
        for name, label in OF_RANGES.items()
    ]
    labels = {
        "sca": "shot-cut accuracy (SCA)",
        "frames_per_cut": "frames off per matched cut",
        "milliseconds_per_cut": "milliseconds off per matched cut",
        "missed": "missed cuts per film",
        "extra": "extra cuts per film",
        **{f"f1@{t}": f"F1 within {t} frames" for t in TOLERANCES},
    }
    settings = report["settings"]
    lines = [
        f"## {report['films']} films",
        f"value [95 % interval over films]; cuts found by {settings['cuts']}, networks in "
        f"{settings['dtype']} on every {_th(settings['every'])} frame",
        "",
        *markdown_table(("", *KINDS.values()), rows),
        "",
        *markdown_table(
            ("film", "value"),
            [
                ("aesthetic (LAION, over 10)", number_text(report["aesthetic"])),
                *((label, number_text(cuts[name])) for name, label in labels.items()),
            ],
        ),
        *_absence_lines(report),
        *_label_lines(report),
        *_omissions(report),
    ]
    return "\n".join(lines) + "\n"


def _th(every: int) -> str:
    return "single" if every == 1 else f"{every}th"


def _absence_lines(report: dict[str, Any]) -> list[str]:
    rows = report["absences"]["asked"]
    if not rows:
        return []
    body = [
        (away, number_text(row["similarity"]), number_text(row["gated"]))
        for away, row in rows.items()
    ]
    head = ("shots away", "similarity of the return", "gated")
    return ["", "Returns on prompted ranges", "", *markdown_table(head, body)]


def _label_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for label, rows in report["by_label"].items():
        body = [
            (value, *(number_text(row[name]) for name in _IN_GROUPS)) for value, row in rows.items()
        ]
        head = (label.replace("_", " "), *_IN_GROUPS.values())
        lines += ["", "On prompted ranges", "", *markdown_table(head, body)]
    return lines


_IN_GROUPS = {"alignment": "text alignment", "inter_shot": "inter-shot", "returns": "returns"}


def _omissions(report: dict[str, Any]) -> list[str]:
    lines = [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    if report["captions_cut"]:
        lines.append(
            f"text alignment never saw {report['tokens_lost']} tokens of "
            f"{report['captions_cut']} captions, which ViCLIP's length cuts off"
        )
    if report["shots_beyond_the_end"]:
        lines.append(
            f"{report['shots_beyond_the_end']} prompted shots begin after their film's end, "
            "and have no measure"
        )
    lines += report["notes"]
    lines += [f"bad film {name}: {why}" for name, why in report["bad"].items()]
    lines += [f"{name}: {', '.join(report[key])}" for key, name in _WITHOUT.items() if report[key]]
    return ["", *(f"* {line}" for line in lines)] if lines else []


_WITHOUT = {"without_story": "films without a story", "without_film": "stories without a film"}


def write_film_report(out: Path, report: dict[str, Any]) -> None:
    """Writes measures.md and measures.json; each gets its final name once complete."""
    for name, text in (
        ("measures.md", film_markdown(report)),
        ("measures.json", json.dumps(report, indent=1)),
    ):
        with atomic_file(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
