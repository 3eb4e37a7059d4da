"""The evaluation's report: JSON for machines, markdown tables for people."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from causalcine_jax.evaluation.metrics.shot_cuts import PAPER_CALIBRATED
from causalcine_jax.evaluation.storyworld import free_films, recall
from causalcine_jax.evaluation.storyworld.recall import (
    CHANCE,
    TRUTH,
    VAE,
    RecallResult,
    ReturnCase,
    Verdict,
)
from causalcine_jax.evaluation.tables import markdown_table, number_text, plain
from causalcine_jax.storyworld import WorldShot
from causalcine_jax.storyworld.world import SIZES
from causalcine_jax.utils.environment import device, software

# What the judge can read, and the ceiling of any policy.
LABELS = {
    TRUTH: "true films",
    VAE: "true films through the VAE",
}
RECALL_COLUMNS = ("colour", "accessory", "joint", "mean", "found", "remembered")
FREE_COLUMNS = {
    "SCA": "sca",
    "frames off per cut": "frames_per_cut",
    "missed": "missed_per_film",
    "extra": "extra_per_film",
    "F1@2": "f1@2",
    "F1@6": "f1@6",
    "F1@12": "f1@12",
    "prompt": "prompt",
    "place": "place",
    "time": "time",
    "action": "action",
    "self recall colour": "self_recall_colour",
    "self recall accessory": "self_recall_accessory",
    "truth recall colour": "truth_recall_colour",
    "truth recall accessory": "truth_recall_accessory",
    "intra-shot consistency": "consistency",
    "sharpness of characters": "sharpness",
}


def build_report(
    settings: dict[str, Any], primary: RecallResult, secondary: "free_films.FreeResult | None"
) -> dict[str, Any]:
    """Returns all that was measured as plain JSON; intervals are {value, low, high, count}."""
    report = {
        "settings": settings,
        "software": software(),
        "device": device(),
        "intervals": "95 %; recall of an attribute: Wilson; everything else: percentile bootstrap "
        "over returns, or over whole films",
        "primary": {
            "returns": len(primary.cases),
            "chance": CHANCE,
            "rows": {row: primary.row(row) for row in primary.verdicts},
            "remembered_by_layer": {
                row: np.mean([verdict.by_layer for verdict in verdicts], axis=0).tolist()
                for row, verdicts in primary.verdicts.items()
                if row not in LABELS
            },
            "subsets": {name: _subset_rows(primary, keep) for name, keep in SUBSETS.items()},
            "cases": [_case(primary, number) for number in range(len(primary.cases))],
        },
    }
    if secondary is not None:
        report["secondary"] = {
            "films": len(secondary.stories),
            "sca_penalty": f"{PAPER_CALIBRATED} of the film per missed or extra cut, "
            "calibrated on published tables, not official",
            "rows": {row: secondary.row(row) for row in secondary.scores},
        }
    return plain(report)


def _shot(case: ReturnCase) -> WorldShot:
    return case.story.shots[case.back.shot]


def _framed(size: str) -> Callable[[ReturnCase], bool]:
    return lambda case: _shot(case).size == size


SUBSETS: dict[str, Callable[[ReturnCase], bool]] = {
    "first seen late (a memory of first frames cannot hold them)": lambda case: case.late,
    "first seen early": lambda case: not case.late,
    "told: a caption named the looks once": lambda case: case.story.told,
    "untold: no caption ever names the looks": lambda case: not case.story.told,
    "alone": lambda case: len(_shot(case).cast) == 1,
    "in a pair": lambda case: len(_shot(case).cast) > 1,
    **{f"{size} shots": _framed(size) for size in SIZES},
}


def markdown(report: dict[str, Any]) -> str:
    """Formats the report as the markdown tables that are printed."""
    primary, settings = report["primary"], report["settings"]
    lines = [
        f"## PRIMARY recall: {primary['returns']} returns after absences longer than the window"
        + _rarity(settings["most_shown"]),
        f"world {settings['world']}, {settings['steps']} steps, guidance {settings['guidance']}, "
        f"seed {settings['seed']}, {settings['dtype']} on {report['device']['kind']}; "
        "value [95 % interval]",
        "",
        *markdown_table(
            ("", *RECALL_COLUMNS),
            [
                ("chance", *(number_text(CHANCE.get(c)) for c in RECALL_COLUMNS)),
                *_recall_rows(primary["rows"]),
            ],
        ),
    ]
    for name, rows in primary["subsets"].items():
        count = next(iter(rows.values()))["joint"]["count"] if rows else 0
        if count:
            policies = {row: values for row, values in rows.items() if row not in LABELS}
            lines += [
                "",
                f"{name}: {count} returns",
                "",
                *markdown_table(("", *RECALL_COLUMNS), _recall_rows(policies)),
            ]
    if "secondary" in report:
        secondary = report["secondary"]
        rows = secondary["rows"]
        body = [
            (label, *(number_text(values[key]) for values in rows.values()))
            for label, key in FREE_COLUMNS.items()
        ]
        lines += [
            "",
            f"## SECONDARY: {secondary['films']} free films per policy",
            "",
            *markdown_table(("", *rows), body),
        ]
        lines += ["", f"SCA penalty: {secondary['sca_penalty']}."]
    return "\n".join(lines) + "\n"


def _rarity(most_shown: float) -> str:
    return f", of characters in at most {most_shown:.0%} of older chunks" if most_shown < 1 else ""


def _recall_rows(rows: dict[str, dict]) -> list[tuple[str, ...]]:
    return [
        (LABELS.get(row, row), *(number_text(values[column]) for column in RECALL_COLUMNS))
        for row, values in rows.items()
    ]


def _subset_rows(primary: RecallResult, keep) -> dict[str, dict]:
    numbers = [number for number, case in enumerate(primary.cases) if keep(case)]
    return (
        {
            row: recall.summarise([verdicts[i] for i in numbers])
            for row, verdicts in primary.verdicts.items()
        }
        if numbers
        else {}
    )


def _case(primary: RecallResult, number: int) -> dict[str, Any]:
    case = primary.cases[number]
    return {
        "story": case.story.index,
        "chunk": case.back.chunk,
        "told": case.story.told,
        "shown": case.shown,
        **dataclasses.asdict(case.back),
        "truth": dataclasses.asdict(case.character),
        "seen": {row: _seen(verdicts[number]) for row, verdicts in primary.verdicts.items()},
    }


def _seen(verdict: Verdict) -> dict[str, Any] | None:
    return None if verdict.found is None else dataclasses.asdict(verdict.found)
