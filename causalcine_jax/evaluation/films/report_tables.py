"""The report on a folder of films as tables, with everything that was not measured, by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from causalcine_jax.evaluation.films.measure_table import MEASURES, OF_RANGES
from causalcine_jax.evaluation.films.returns import CROSSED, NO_ABSENCE
from causalcine_jax.evaluation.metrics.shot_cuts import TOLERANCES
from causalcine_jax.evaluation.tables import markdown_table, number_text

KINDS = {"asked": "prompted ranges", "found": "detected ranges"}
OF_FILMS = {  # the names of numbers over all cuts, beside those of MEASURES
    "frames_per_cut": "frames off per matched cut",
    "milliseconds_per_cut": "milliseconds off per matched cut",
    **{f"f1@{t}": f"F1 within {t} frames" for t in TOLERANCES},
    **{name: measure.label for name, measure in MEASURES.items()},
}
AWAY = {"similarity": "similarity of the return", "gated": "gated", "introduced": "introduced"}
BOUNDS = {
    NO_ABSENCE.name: NO_ABSENCE.label,
    "chance": "chance: shots of two stories of the same kind",
}
GROUPED = {name: measure.short for name, measure in MEASURES.items() if measure.short}
WITHOUT = {"without_story": "films without a story", "without_film": "stories without a film"}


def film_markdown(report: dict[str, Any]) -> str:
    """The tables, and everything that was not measured, by name."""
    settings, bounds = report["settings"], report["bounds"]
    of_films = {"aesthetic": report["aesthetic"], **report["cuts"]}
    lines = [
        f"## {report['films']} films",
        f"value [95 % interval over stories]; cuts found by {settings['cuts']}, networks in "
        f"{settings['dtype']} on every {_th(settings['every'])} frame",
        *_section(
            ("", *KINDS.values()),
            [
                (measure.label, *(number_text(report[kind][name]) for kind in KINDS))
                for name, measure in OF_RANGES.items()
            ],
        ),
        *_section(
            ("film", "value"),
            [
                (OF_FILMS[name], number_text(of_films[name]))
                for name in of_films
                if name in OF_FILMS
            ],
        ),
        *_section(
            (f"with {report['failed']} films that failed or are missing as 0", "prompted ranges"),
            [(OF_FILMS[name], number_text(each)) for name, each in report["failed_as_0"].items()],
        ),
        *_section(
            ("shots away", *AWAY.values()),
            [(away, *_texts(row, AWAY)) for away, row in report["absences"]["asked"].items()],
            "Returns on prompted ranges",
        ),
        *_section(
            ("away", "described again", *CROSSED.values()),
            [
                (row["away"], row["described_again"], *_texts(row, CROSSED))
                for row in report["crossed"]
            ],
            "Both labels of returns, on prompted ranges",
        ),
        *_section(
            ("bounds of returns", *KINDS.values()),
            [
                (label, *(_of_stories(bounds[kind][name]) for kind in KINDS))
                for name, label in BOUNDS.items()
                if any(bounds[kind][name]["count"] for kind in KINDS)
            ],
        ),
    ]
    for label, rows in report["by_label"].items():
        lines += _section(
            (label.replace("_", " "), *GROUPED.values()),
            [(value, *_texts(row, GROUPED)) for value, row in rows.items()],
            "On prompted ranges",
        )
    return "\n".join([*lines, *_omissions(report)]) + "\n"


def _th(every: int) -> str:
    return "single" if every == 1 else f"{every}th"


def _section(
    head: tuple[str, ...], body: Sequence[tuple[str, ...]], title: str | None = None
) -> list[str]:
    """A table below its title; nothing where it has no rows."""
    if not body:
        return []
    return ["", *([title, ""] if title else []), *markdown_table(head, body)]


def _texts(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [number_text(row[name]) for name in names]


def _of_stories(value: dict[str, Any]) -> str:
    return f"{number_text(value)} ({value['count']} stories)" if value["count"] else "-"


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
    lines += [f"{name}: {', '.join(report[key])}" for key, name in WITHOUT.items() if report[key]]
    return ["", *(f"* {line}" for line in lines)] if lines else []
