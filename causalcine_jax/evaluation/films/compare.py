"""Two systems by their films of the same stories: differences per story, with intervals.

    measures.json, measures.json --per story--> difference [95 % interval over stories]

Overlapping intervals of two means decide nothing, because some stories are hard for every system.
"""

from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.errors import UsageError, is_number, raise_faults, shown
from causalcine_jax.evaluation.films.measure_table import MEASURES
from causalcine_jax.evaluation.films.stories import story_of
from causalcine_jax.evaluation.films.story_means import by_story
from causalcine_jax.evaluation.intervals import Grouped, bootstrap_mean, bootstrap_paired
from causalcine_jax.evaluation.tables import markdown_table, number_text, plain
from causalcine_jax.utils.plain_data import read_plain

NEEDED = {"settings", "per_film", "bad", "without_film"}


def measures_file(path: Path) -> Path:
    """measures.json of a folder; any other path is the file itself."""
    return path / "measures.json" if path.is_dir() else path


def read_measures(path: Path) -> dict[str, Any]:
    """What `evaluate --films` left: measures.json, or the folder that holds it.

    Raises:
      UsageError: it is not there, is something else, or was edited; lists every fault.
    """
    file = measures_file(path)
    if not file.is_file():
        raise UsageError(f"--compare {path}: there is no {file}: `evaluate --films` makes one")
    report = read_plain(file)
    if not isinstance(report, dict) or not report.keys() >= NEEDED:
        raise UsageError(f"--compare {file}: holds no measures of films, but {shown(report)}")
    faults = [f"{name} is not as it was written: measure it again" for name in _unreadable(report)]
    raise_faults(f"--compare {file}", faults)
    return report


def _unreadable(report: dict[str, Any]) -> list[str]:
    """What `comparison` would read and cannot: people edit these files."""
    films, absent = report["per_film"], report["without_film"]
    found = [name for name in ("settings", "per_film", "bad") if not isinstance(report[name], dict)]
    if not isinstance(absent, list) or not all(isinstance(name, str) for name in absent):
        found.append("without_film")
    if isinstance(films, dict):
        found += [f"the film {name}" for name, film in films.items() if not _is_measured(film)]
    return found


def _is_measured(film: Any) -> bool:
    try:
        values = [measure.score()(film) for measure in MEASURES.values()]
        texts = film["story"], film.get("story_sha256", "")
    except (KeyError, TypeError, AttributeError):
        return False
    numbers = all(value is None or is_number(value) for value in values)
    return numbers and all(isinstance(text, str) for text in texts)


def comparison(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both systems' means and the differences second - first, on prompted ranges, as plain JSON.

    A measure counts the stories that have it on both sides. A film that failed or is missing
    counts as 0 where 0 is the worst.

    Raises:
      UsageError: the two were measured otherwise, or have no story in common.
    """
    _check_same(first, second)
    found = {}
    for name, measure in MEASURES.items():
        score = measure.score()
        sides = [by_story(each["per_film"].values(), score) for each in (first, second)]
        if measure.zero_is_worst:  # a story that no film has a score of does not have the measure
            known = sides[0].keys() | sides[1].keys()
            sides = [
                by_story(each["per_film"].values(), score, [s for s in _failed(each) if s in known])
                for each in (first, second)
            ]
        stories = sorted(sides[0].keys() & sides[1].keys())
        if not stories:
            continue
        means = [np.array([np.mean(side[story]) for story in stories]) for side in sides]
        one_each = [Grouped(mean, np.ones(len(stories))) for mean in means]
        found[name] = {
            "first": bootstrap_mean(means[0].tolist()),
            "second": bootstrap_mean(means[1].tolist()),
            "difference": bootstrap_paired(one_each[1], one_each[0], np.subtract),
        }
    if not found:
        raise UsageError("the two have no measured story in common")
    return plain(
        {
            "intervals": "95 %, percentile bootstrap over the stories of both, redrawn together",
            "settings": first["settings"],
            "failed": [_failed(each) for each in (first, second)],
            "measures": found,
        }
    )


def comparison_markdown(report: dict[str, Any], names: tuple[str, str]) -> str:
    """The table. A difference whose interval leaves out 0 is marked."""
    body = []
    for name, row in report["measures"].items():
        difference = row["difference"]
        low, high = difference["low"], difference["high"]
        apart = low is not None and (low > 0 or high < 0)
        body.append(
            (
                MEASURES[name].label,
                *(number_text(row[side]) for side in ("first", "second")),
                number_text(difference) + (" *" if apart else ""),
                str(difference["count"]),
            )
        )
    head = ("on prompted ranges", *names, "second - first", "stories")
    lines = [
        *markdown_table(head, body),
        "",
        "value [95 % interval over stories]; *: the interval of the difference leaves out 0; one "
        "story has no interval",
    ]
    for name, failed in zip(names, report["failed"], strict=True):
        if failed:
            without = ", ".join(each.label for each in MEASURES.values() if not each.zero_is_worst)
            lines.append(
                f"{name}: {len(failed)} films failed or are missing. They count as 0, except in: "
                f"{without}"
            )
    return "\n".join(lines) + "\n"


def _failed(report: dict[str, Any]) -> list[str]:
    return [story_of(name) for name in (*report["bad"], *report["without_film"])]


def _check_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = first["settings"], second["settings"]
    faults = [
        f"{name} was {shown(one.get(name))} and {shown(other.get(name))}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]
    hashes: list[dict[str, str]] = [
        {film["story"]: film.get("story_sha256", "") for film in each["per_film"].values()}
        for each in (first, second)
    ]
    faults += [
        f"the story {story} is another one"
        for story in sorted(hashes[0].keys() & hashes[1].keys())
        if "" not in (hashes[0][story], hashes[1][story]) and hashes[0][story] != hashes[1][story]
    ]
    raise_faults("the two were measured differently, measure them alike", faults)
