"""Measures one film: what was asked of it, and its pixels.

    frames, once   -> times, luma, cuts            -> asked and found ranges -> SCA, dynamics
    frames, again  -> features of sampled frames   -> the measures of both kinds of ranges

A film is decoded twice, so that memory holds a few frames of it and never the whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from causalcine_jax.errors import DataError
from causalcine_jax.evaluation.films.features import FilmFeatures, film_features
from causalcine_jax.evaluation.films.shot_features import packed
from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.metrics import consistency, ranges
from causalcine_jax.evaluation.metrics.cut_detector import CutDetector, shrink
from causalcine_jax.evaluation.metrics.dynamics import dynamics, luma_cells
from causalcine_jax.evaluation.metrics.shot_cuts import TOLERANCES, detection, sca
from causalcine_jax.render.clip import frames as clip_frames
from causalcine_jax.render.colour import ToRGB
from causalcine_jax.scorers.scorers import Scorers

MOST_FRAMES = 100_000  # about an hour; a longer file is no film of a story
# A film's frames to the first frames of its shots after the first.
CutFinder = Callable[[Iterable[UInt8[np.ndarray, "h w 3"]]], list[int]]


@dataclass(frozen=True)
class MeasureSettings:
    """How films are measured.

    every  image networks measure every N-th frame; VBench measures all
    cuts   the name of the cut finder, for the report
    """

    every: int = 1
    cuts: str = "pixels"
    dtype: str = "float32"


def pixel_cuts(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> list[int]:
    """The hard cuts that `CutDetector` finds, without a network."""
    detector = CutDetector()
    cells = [shrink(frame[None], detector.grid) for frame in frames]
    return detector.of_cells(np.concatenate(cells)) if cells else []


@dataclass
class FirstPass:
    """What the first pass over a film leaves."""

    times: Float[np.ndarray, " t"]
    luma: Float[np.ndarray, "t y x"]
    cuts: list[int]


def measure_film(
    film: Path, story: FilmStory, scorers: Scorers, settings: MeasureSettings, find_cuts: CutFinder
) -> dict[str, Any]:
    """All measures of a film as plain data; a measure whose inputs are missing is None.

    Raises:
      DataError, UsageError: the film cannot be read or measured.
    """
    seen = _look(film, find_cuts)
    count = len(seen.times)
    asked = ranges.asked_cuts(story.cuts, seen.times)
    kinds = {
        "asked": ranges.between(asked, count),
        "found": ranges.between(seen.cuts, count),
    }
    shots = {
        "asked": list(range(len(story.captions))),
        "found": [ranges.most_overlapping(each, kinds["asked"]) for each in kinds["found"]],
    }
    # An asked shot beyond the film's end has no frames, and no measure.
    shown = {
        kind: [(n, each) for n, each in zip(shots[kind], kinds[kind], strict=True) if len(each)]
        for kind in kinds
    }
    features = film_features(
        (image for image, _ in _frames(film)),
        [each for kind in shown.values() for _, each in kind],
        range(0, count, settings.every),
        scorers,
    )
    captions, lost = _captions(story, scorers)
    return {
        "labels": dict(story.labels),
        "frames": count,
        "seconds": round(float(seen.times[-1] - seen.times[0]) * count / max(1, count - 1), 4),
        "shots_asked": len(story.captions),
        "shots_found": len(kinds["found"]),
        "shots_beyond_the_end": len(story.captions) - len(shown["asked"]),
        "cuts_asked": asked,
        "cuts_found": seen.cuts,
        "cuts": _cut_scores(seen, asked),
        "aesthetic": features.aesthetic,
        "tokens_lost": lost,
        **{kind: _of_ranges(shown[kind], story, features, captions, seen) for kind in shown},
    }


def _look(film: Path, find_cuts: CutFinder) -> FirstPass:
    times: list[float] = []
    luma: list[np.ndarray] = []

    def watched() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for image, start in _frames(film):
            times.append(start)
            luma.append(luma_cells(image))
            yield image

    cuts = find_cuts(watched())
    if not times:
        raise DataError(f"{film} has no frames")
    return FirstPass(np.array(times), np.stack(luma), cuts)


def _frames(film: Path) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float]]:
    """A film's frames with the times at which they begin, in seconds."""
    size = None
    for number, frame in enumerate(clip_frames(film, ToRGB())):
        if number == MOST_FRAMES:
            raise DataError(f"{film} has more than {MOST_FRAMES:,} frames, which is no film here")
        image = np.asarray(frame.image)
        if size not in (None, image.shape):
            raise DataError(f"{film} has frames of several sizes: encode it again")
        size = image.shape
        yield image, float(frame.start)


def _cut_scores(seen: FirstPass, asked: Sequence[int]) -> dict[str, Any]:
    count = len(seen.times)
    score = sca(seen.cuts, asked, count)
    step = float(np.median(np.diff(seen.times))) if count > 1 else 0.0
    return {
        **asdict(score),
        "frames_per_cut": score.frames_per_cut,
        "milliseconds_per_cut": score.frames_per_cut * step * 1000,
        "near": {str(t): asdict(detection(seen.cuts, asked, t, count)) for t in TOLERANCES},
    }


def _captions(
    story: FilmStory, scorers: Scorers
) -> tuple[Float[np.ndarray, "shots d"] | None, list[int] | None]:
    """The captions' features, and how many tokens of each ViCLIP never saw."""
    if scorers.missing("text alignment"):
        return None, None
    encoded = [scorers.viclip.caption(caption) for caption in story.captions]
    return np.stack([feature for feature, _ in encoded]), [lost for _, lost in encoded]


def _of_ranges(
    shown: list[tuple[int, range]],
    story: FilmStory,
    features: FilmFeatures,
    captions: Float[np.ndarray, "shots d"] | None,
    seen: FirstPass,
) -> dict[str, Any]:
    """The measures of one kind of ranges. `shown`: each with the number of its asked shot."""
    shots, numbers = [each for _, each in shown], [number for number, _ in shown]
    moves = dynamics(seen.luma, seen.times, shots)
    values: dict[str, Any] = {
        "ranges": [[each.start, each.stop] for each in shots],
        "asked_shot": numbers,
        "dynamics": moves,
        "subject": features.within(features.dino, shots),
        "background": features.within(features.clip_b32, shots),
        "alignment": None,
        "pairs": None,
        "shot_features": None,
    }
    faithful: list[bool] | None = None
    if captions is not None:
        alignment = np.stack([features.clips[each] for each in shots]) @ captions.T
        own = alignment[np.arange(len(shots)), numbers]
        values["alignment"] = own.tolist()
        faithful = consistency.faithful_shots(alignment, own)
    if features.of_shots is not None and shots:
        values["shot_features"] = packed([features.of_shots[each] for each in shots])
    if features.of_shots is not None and any(story.cast):
        first = consistency.first_shots([story.cast[n] for n in numbers])
        values["pairs"] = [
            {
                **asdict(score.pair),
                "similarity": score.similarity,
                "gated": score.gated,
                "introduced": None if faithful is None else faithful[first[score.pair.character]],
            }
            for score in _pair_scores(shots, story.cast, numbers, features, faithful)
            # An extra cut within a shot makes no second shot of it.
            if numbers[score.pair.first] != numbers[score.pair.second]
        ]
    return {**values, "means": means(values)}


def _pair_scores(
    shots: list[range],
    cast: Sequence[tuple[str, ...]],
    numbers: list[int],
    features: FilmFeatures,
    faithful: list[bool] | None,
) -> list[consistency.PairScore]:
    assert features.of_shots is not None
    return [
        consistency.PairScore(
            pair,
            float(features.of_shots[shots[pair.first]] @ features.of_shots[shots[pair.second]]),
            None if faithful is None else faithful[pair.first] and faithful[pair.second],
        )
        for pair in consistency.matched_pairs(cast, numbers)
    ]


def means(values: dict[str, Any]) -> dict[str, float | None]:
    """A film's number per measure: the mean over its shots, or over its characters' pairs."""
    mean = lambda scores: (
        float(np.mean(kept)) if (kept := [s for s in scores or () if s is not None]) else None
    )
    found = {
        name: mean(values[name]) for name in ("subject", "background", "alignment", "dynamics")
    }
    pairs = [
        consistency.PairScore(
            consistency.Pair(each["character"], each["first"], each["second"], each["absence"]),
            each["similarity"],
        )
        for each in values["pairs"] or ()
    ]
    back = [each for each in values["pairs"] or () if each["absence"]]
    return {
        **found,
        "inter_shot": consistency.inter_shot(pairs),
        "returns": mean([each["similarity"] for each in back]),
        "returns_gated": mean([each["gated"] for each in back]),
        "returns_passed": mean([each["introduced"] for each in back]),
        "returns_counted": mean([each["similarity"] for each in back if each["introduced"]]),
        "no_absence": mean(
            [each["similarity"] for each in values["pairs"] or () if each["absence"] == 0]
        ),
    }
