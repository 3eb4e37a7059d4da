"""The report on a folder of films: numbers with intervals over stories, as JSON and as tables.

A story that was filmed with several seeds counts once, by the mean of its films. Where films
failed, a second table counts each of them as 0.
"""

import math
from collections.abc import Sequence
from typing import Any

from causalcine_jax.evaluation.films.measure_table import MEASURES, OF_RANGES, FilmMeasures
from causalcine_jax.evaluation.films.report_tables import KINDS
from causalcine_jax.evaluation.films.returns import bounds, crossed
from causalcine_jax.evaluation.films.run import VERSION, Measured, Measurer
from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.films.story_means import story_mean
from causalcine_jax.evaluation.intervals import Grouped, Interval, bootstrap_grouped
from causalcine_jax.evaluation.metrics.shot_cuts import (
    PAPER_CALIBRATED,
    TOLERANCES,
    Detection,
    summed_rates,
)
from causalcine_jax.evaluation.tables import plain
from causalcine_jax.utils.environment import device, software


def film_report(measured: Measured, measurer: Measurer, notes: Sequence[str]) -> dict[str, Any]:
    """All that was measured as plain JSON; intervals are {value, low, high, count}."""
    films, failed = list(measured.films.values()), measured.failed
    return plain(
        {
            "settings": {
                "version": VERSION,
                **vars(measurer.settings),
                "weights_sha256": dict(measurer.weights),
                "sca_penalty": PAPER_CALIBRATED,
            },
            "software": software(),
            "device": device(),
            "intervals": "95 %, percentile bootstrap over stories",
            "films": len(films),
            "bad": measured.bad,
            "without_story": measured.without_story,
            "without_film": measured.without_film,
            "left_out": measurer.scorers.left_out,
            "notes": list(notes),
            "failed": len(failed),
            "aesthetic": story_mean(films, MEASURES["aesthetic"]),
            "cuts": _cuts(films),
            **{kind: _of_ranges(films, kind) for kind in KINDS},
            "failed_as_0": _with_failed(films, failed) if failed else {},
            "absences": {kind: _absences(films, kind) for kind in KINDS},
            "bounds": {kind: bounds(films, kind) for kind in KINDS},
            "crossed": crossed(films),
            "by_label": _by_label(films),
            "shots_beyond_the_end": sum(film["shots_beyond_the_end"] for film in films),
            "captions_cut": sum(lost > 0 for film in films for lost in film["tokens_lost"] or ()),
            "tokens_lost": sum(sum(film["tokens_lost"] or ()) for film in films),
            "per_film": {name: _told(film) for name, film in measured.films.items()},
        }
    )


def _told(film: FilmMeasures) -> FilmMeasures:
    """A film's measures without the features, which stay in its own file."""
    without = lambda values: {k: v for k, v in values.items() if k != "shot_features"}
    return film | {kind: without(film[kind]) for kind in KINDS}


def _of_ranges(films: list[FilmMeasures], kind: str) -> dict[str, Interval]:
    return {name: story_mean(films, measure, kind) for name, measure in OF_RANGES.items()}


def _with_failed(films: list[FilmMeasures], failed: list[FilmStory]) -> dict[str, Interval]:
    """Every measure that has a worst value, 0, with the films that failed; on prompted ranges."""
    return {
        name: story_mean(films, measure, "asked", filter(measure.zero_is_worst, failed))
        for name, measure in MEASURES.items()
        if measure.zero_is_worst and any(measure.score()(film) is not None for film in films)
    }


def _cuts(films: list[FilmMeasures]) -> dict[str, Any]:
    cuts = [film["cuts"] for film in films]
    matched = sum(each["matched"] for each in cuts)
    per_cut = lambda name: (
        sum(each["matched"] * each[name] for each in cuts) / matched if matched else math.nan
    )
    found: dict[str, Any] = {
        "sca": story_mean(films, MEASURES["sca"]),
        "frames_per_cut": per_cut("frames_per_cut"),
        "milliseconds_per_cut": per_cut("milliseconds_per_cut"),
        "missed": story_mean(films, MEASURES["missed"]),
        "extra": story_mean(films, MEASURES["extra"]),
    }
    near = [{t: Detection(**each["near"][str(t)]) for t in TOLERANCES} for each in cuts]
    return found | summed_rates(near)


def _absences(films: list[FilmMeasures], kind: str) -> dict[str, dict[str, Interval]]:
    """Similarity of a returning character's shots, by the number of shots that it was away."""
    of_story: dict[str, list[dict[str, Any]]] = {}
    for film in films:
        of_story.setdefault(film["story"], []).extend(film[kind]["pairs"] or [])
    known = list(of_story.values())
    away = sorted({pair["absence"] for pairs in known for pair in pairs} - {None})
    return {
        str(absence): {
            name: _over_stories(known, absence, name)
            for name in ("similarity", "gated", "introduced")
        }
        for absence in away
    }


def _over_stories(stories: list[list[dict[str, Any]]], absence: int, name: str) -> Interval:
    scores = [
        [p[name] for p in pairs if p["absence"] == absence and p[name] is not None]
        for pairs in stories
    ]
    return bootstrap_grouped(Grouped.of(scores))


def _by_label(films: list[FilmMeasures]) -> dict[str, dict[str, dict[str, Interval]]]:
    """The measures on prompted ranges, of the films of every value of a story set's labels."""
    values: dict[str, dict[str, None]] = {}
    for film in films:
        for label, value in film["labels"].items():
            values.setdefault(label, {})[value] = None
    return {
        label: {
            value: _of_ranges(
                [film for film in films if film["labels"].get(label) == value], "asked"
            )
            for value in sorted(found)
        }
        for label, found in values.items()
    }
