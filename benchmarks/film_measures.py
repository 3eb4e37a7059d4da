"""Times the paper's measures on StoryWorld films, and ranks films by them and by the judge.

    python -m benchmarks.film_measures [--films 10] [--world base] [--every 1] [--dtype float32]

The films are true ones; in the n-th of them, n tenths of the shots come from another story, so
that the judge has something to rank. The networks have their true sizes and random weights unless
--weights names published ones. With random weights the agreement means nothing.
Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks.random_scorers import SMALL, TRUE, write_scorers
from benchmarks.rank_agreement import as_film_story, rank_agreement
from causalcine_jax.evaluation.films.command import named_weights
from causalcine_jax.evaluation.films.measure import MeasureSettings, measure_film, pixel_cuts
from causalcine_jax.evaluation.storyworld.free_films import score_film, stories_apart
from causalcine_jax.evaluation.storyworld.reading import Judge
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.scorers.scorers import Scorers
from causalcine_jax.storyworld import WORLDS, WorldStory
from causalcine_jax.utils.environment import device, software
from causalcine_jax.utils.progress import progress_bar

SEED, FPS = 77, 16


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--world", choices=tuple(WORLDS), default="base")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--small", action="store_true", help="networks of one layer, for a trial")
    parser.add_argument("--weights", action="append", help="as of causalcine evaluate")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(flags, Path(folder))))


def measured(flags: argparse.Namespace, folder: Path) -> dict:
    """The JSON object. Its seconds leave out writing, loading weights and compiling.

    `loading_seconds` and `first_film_seconds`, which includes compiling, are beside them.
    """
    given = flags.weights or [str(write_scorers(folder, SMALL if flags.small else TRUE))]
    stories = stories_apart(WORLDS[flags.world](), SEED, flags.films + 1)
    videos = {number: true_film(story) for number, story in enumerate(stories)}
    judge, values, judged = Judge.load(), [], []
    files = []
    for number, story in enumerate(stories[: flags.films]):
        share = number / max(1, flags.films - 1)
        video = mixed(story, videos[number], videos[number + 1], share)
        judged.append(score_film(story, video, judge))
        files.append(folder / f"{number}.mp4")
        with FilmWriter(files[-1], FPS) as film:
            film.append(video)
    settings = MeasureSettings(flags.every, "pixels", flags.dtype)
    start = time.perf_counter()
    scorers = Scorers(named_weights(given), jnp.dtype(flags.dtype))
    loaded = time.perf_counter()
    measure_film(files[0], as_film_story(stories[0], files[0].stem), scorers, settings, pixel_cuts)
    begun = time.perf_counter()
    for file, story in zip(
        progress_bar(flags.films, "film", over=files), stories[: flags.films], strict=True
    ):
        asked = as_film_story(story, file.stem)
        values.append(measure_film(file, asked, scorers, settings, pixel_cuts))
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "loading_seconds": round(loaded - start, 1),
        "first_film_seconds": round(begun - loaded, 1),
        "films": flags.films,
        "frames": sum(film["frames"] for film in values),
        "world": flags.world,
        "every": flags.every,
        "dtype": flags.dtype,
        "weights": "published" if flags.weights else "random",
        "rank_agreement": {
            name: interval._asdict() for name, interval in rank_agreement(values, judged).items()
        },
        "software": software(),
        "device": device(),
    }


def mixed(story: WorldStory, own: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """The film with the last `share` of its shots from another one."""
    video = own.copy()
    first = len(story.shots) - round(share * len(story.shots))
    for shot in story.shots[first:]:
        video[shot.frames.start : shot.frames.stop] = other[shot.frames.start : shot.frames.stop]
    return video


if __name__ == "__main__":
    main()
