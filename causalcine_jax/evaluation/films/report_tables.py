"""The report on a folder of films as tables, with everything that was not measured, by name."""

from typing import Any

from causalcine_jax.evaluation.metrics.shot_cuts import TOLERANCES
from causalcine_jax.evaluation.tables import markdown_table, number_text

KINDS = {"asked": "prompted ranges", "found": "detected ranges"}
OF_RANGES = {
    "alignment": "text alignment (ViCLIP)",
    "subject": "subject consistency (DINO)",
    "background": "background consistency (CLIP)",
    "inter_shot": "inter-shot consistency (DINOv2)",
    "returns": "of these, returns after an absence",
    "returns_gated": "returns, 0 where a shot is not as its caption says",
    "returns_passed": "share of returns whose character was introduced",
    "returns_counted": "returns of introduced characters",
    "dynamics": "dynamics (grey levels a second)",
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
        f"value [95 % interval over stories]; cuts found by {settings['cuts']}, networks in "
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
        *_failed_lines(report),
        *_absence_lines(report),
        *_crossed_lines(report),
        *_bound_lines(report),
        *_label_lines(report),
        *_omissions(report),
    ]
    return "\n".join(lines) + "\n"


def _th(every: int) -> str:
    return "single" if every == 1 else f"{every}th"


def _failed_lines(report: dict[str, Any]) -> list[str]:
    if not report["failed_as_0"]:
        return []
    labels = {"aesthetic": "aesthetic (LAION, over 10)", "sca": "shot-cut accuracy (SCA)"}
    body = [
        ((labels | OF_RANGES)[name], number_text(value))
        for name, value in report["failed_as_0"].items()
    ]
    head = (f"with {report['failed']} films that failed or are missing as 0", "prompted ranges")
    return ["", *markdown_table(head, body)]


def _absence_lines(report: dict[str, Any]) -> list[str]:
    rows = report["absences"]["asked"]
    if not rows:
        return []
    body = [
        (away, *(number_text(row[name]) for name in ("similarity", "gated", "introduced")))
        for away, row in rows.items()
    ]
    head = ("shots away", "similarity of the return", "gated", "introduced")
    return ["", "Returns on prompted ranges", "", *markdown_table(head, body)]


def _crossed_lines(report: dict[str, Any]) -> list[str]:
    if not (rows := report["crossed"]):
        return []
    columns = {
        "returns": "similarity of the return",
        "returns_gated": "gated",
        "returns_passed": "introduced",
        "returns_counted": "of those",
    }
    body = [
        (row["away"], row["described_again"], *(number_text(row[name]) for name in columns))
        for row in rows
    ]
    head = ("away", "described again", *columns.values())
    return ["", "Both labels of returns, on prompted ranges", "", *markdown_table(head, body)]


def _bound_lines(report: dict[str, Any]) -> list[str]:
    bounds = report["bounds"]
    names = {
        "no_absence": "two shots in a row that show the subject",
        "chance": "chance: shots of two stories of the same kind",
    }
    body = [
        (label, *(_of_stories(bounds[kind][name]) for kind in KINDS))
        for name, label in names.items()
        if any(bounds[kind][name]["count"] for kind in KINDS)
    ]
    head = ("bounds of returns", *KINDS.values())
    return ["", *markdown_table(head, body)] if body else []


def _of_stories(value: dict[str, Any]) -> str:
    return f"{number_text(value)} ({value['count']} stories)" if value["count"] else "-"


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
