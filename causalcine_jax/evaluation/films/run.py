"""Measures a folder of films, one after the other, and goes on where it was stopped.

    OUT/films/NAME.json   one per film, complete or not there; SEED/NAME.json with seeds
    OUT/measures.json     all of it, with intervals
    OUT/measures.md       the tables

A film is measured again if its file, its story, the weights or the settings are others.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, kept_when_stopped
from causalcine_jax.evaluation.films.measure import CutFinder, MeasureSettings, measure_film
from causalcine_jax.evaluation.films.stories import FilmStory, asked_of, story_of
from causalcine_jax.scorers.scorers import Scorers
from causalcine_jax.utils.atomic_file import file_hash, write_text
from causalcine_jax.utils.progress import progress_bar

VERSION = 5  # of what a film's JSON holds; another one is measured again
FILES = ("measures.json", "measures.md", "films/*.json", "films/*/*.json")


@dataclass
class Measured:
    """What was measured, and what was not and why, by name.

    failed  the stories of films that cannot be read or are not there
    """

    films: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    without_story: list[str] = field(default_factory=list)
    without_film: list[str] = field(default_factory=list)
    failed: list[FilmStory] = field(default_factory=list)
    resumed: int = 0


@dataclass(frozen=True)
class Measurer:
    """The scorers and settings of a run, and the hashes of the weights that identify them."""

    scorers: Scorers
    settings: MeasureSettings
    find_cuts: CutFinder
    weights: Mapping[str, str]

    def identity(self, film_sha256: str, story: FilmStory) -> str:
        """A hash of everything that a film's measures depend on."""
        parts = {
            "version": VERSION,
            "film": film_sha256,
            "story": story.hash,
            "weights": dict(self.weights),
            **dataclasses.asdict(self.settings),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def measure_films(
    films: Mapping[str, Path],
    stories: Mapping[str, FilmStory],
    measurer: Measurer,
    out: Path,
) -> Measured:
    """Measures every film that has a story. A film that cannot be read is named in `bad`.

    Raises:
      UsageError: no film has a story.
    """
    named = [name for name in films if story_of(name) in stories]
    if not named:
        raise UsageError(
            f"no film has a story of its name: the films are {_some(films)}, "
            f"the stories {_some(stories)}"
        )
    measured = Measured(
        without_story=[name for name in films if story_of(name) not in stories],
        without_film=[name for name in _expected(films, stories) if name not in films],
    )
    kept = lambda: f"stopped after {len(measured.films)} films: the same command goes on"
    with kept_when_stopped(kept), progress_bar(len(named), "film") as bar:
        for name in named:
            try:
                _measure(name, films[name], stories[story_of(name)], measurer, out, measured)
            except (DataError, UsageError) as error:
                measured.bad[name] = str(error)
            bar.update()
    missing = [*measured.bad, *measured.without_film]
    measured.failed = [stories[story_of(name)] for name in missing]
    return measured


def _expected(films: Mapping[str, Path], stories: Mapping[str, FilmStory]) -> list[str]:
    """The names of all films that there should be: of every story with every seed."""
    there = [name for name in films if story_of(name) in stories]
    seeds = dict.fromkeys(name.removesuffix(story_of(name)) for name in there)  # "0/", or ""
    return [f"{seed}{name}" for seed in seeds for name in stories]


def _measure(
    name: str, film: Path, story: FilmStory, measurer: Measurer, out: Path, measured: Measured
) -> None:
    file = out / "films" / f"{name}.json"
    digest = file_hash(film)
    asked = asked_of(film, story)
    identity = measurer.identity(digest, asked)
    values = _earlier(file, identity)
    if values is None:
        scorers, settings = measurer.scorers, measurer.settings
        found = measure_film(film, asked, scorers, settings, measurer.find_cuts)
        named = {"film": name, "story": story.name, "sha256": digest, "story_sha256": story.hash}
        values = {"identity": identity, **named, **found}
        write_text(file, json.dumps(values, indent=1))
    else:
        measured.resumed += 1
    measured.films[name] = values


def _earlier(file: Path, identity: str) -> dict[str, Any] | None:
    """The measures in `file` if it was written for `identity`; None otherwise or if damaged."""
    try:
        data = json.loads(file.read_text("utf-8"))
        return data if data["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
