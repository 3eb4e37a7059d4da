"""The measures of films: how every report names each, reads it from a film, and counts failures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.metrics.consistency import matched_pairs

FilmMeasures = dict[str, Any]  # what was measured of a film
Score = Callable[[FilmMeasures], float | None]


@dataclass(frozen=True)
class Measure:
    """A measure.

    name           in measures.json
    label          in the rows of tables
    of_film        how it is read; None for a measure on ranges of frames
    zero_is_worst  whether a failed film of a story counts as 0; None where 0 is not the worst
    short          the head of its column, where films are grouped by label
    share          whether it is a share of a film's returns
    """

    name: str
    label: str
    of_film: Score | None = None
    zero_is_worst: Callable[[FilmStory], bool] | None = None
    short: str = ""
    share: bool = False

    def score(self, kind: str = "asked") -> Score:
        """A film's number; on prompted ("asked") or detected ("found") ranges."""
        return self.of_film or (lambda film: film[kind]["means"].get(self.name))


def _always(story: FilmStory) -> bool:
    return True


def _with_pairs(story: FilmStory) -> bool:
    return bool(matched_pairs(story.cast))


def _with_returns(story: FilmStory) -> bool:
    return any(pair.absence for pair in matched_pairs(story.cast))


_TABLE = (
    Measure("aesthetic", "aesthetic (LAION, over 10)", lambda film: film["aesthetic"], _always),
    Measure("sca", "shot-cut accuracy (SCA)", lambda film: film["cuts"]["sca"], _always),
    Measure("missed", "missed cuts per film", lambda film: film["cuts"]["missed"]),
    Measure("extra", "extra cuts per film", lambda film: film["cuts"]["extra"]),
    Measure("alignment", "text alignment (ViCLIP)", None, _always, "text alignment"),
    Measure("subject", "subject consistency (DINO)", None, _always),
    Measure("background", "background consistency (CLIP)", None, _always),
    Measure("inter_shot", "inter-shot consistency (DINOv2)", None, _with_pairs, "inter-shot"),
    Measure("returns", "of these, returns after an absence", None, _with_returns, "returns"),
    Measure(
        "returns_gated", "returns, 0 where a shot is not as its caption says", None, _with_returns
    ),
    Measure(
        "returns_passed",
        "share of returns whose character was introduced",
        None,
        _with_returns,
        share=True,
    ),
    Measure("returns_counted", "returns of introduced characters"),
    Measure("dynamics", "dynamics (grey levels a second)"),
)
MEASURES = {measure.name: measure for measure in _TABLE}
OF_RANGES = {name: measure for name, measure in MEASURES.items() if measure.of_film is None}
