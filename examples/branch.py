"""One beginning, two endings: a film is branched at a shot, and one branch's ending is taken again.

    python examples/branch.py --out outputs/branches
    python examples/branch.py --model models/self-forcing --out outputs/branches

The second film starts from a copy of the first one's history, so the beginning is made once. Leaves
ending_1.mp4, ending_2.mp4 and another take of the second, ending_2_retake.mp4.
"""

import argparse
from pathlib import Path

import numpy as np

from causalcine_jax import Director, Story
from causalcine_jax.cli import ArgumentParser, run, whole_number
from causalcine_jax.render.mp4 import FilmWriter, viewing_scale
from causalcine_jax.story import Shot

STORY = "A gentle tale about Mia the fox and Otto the bear."
BEGINNING = "Wide shot. Mia walks left in the meadow at sunset. Mia is blue with a scarf."
ENDINGS = (
    "Close-up. Mia dances on the beach by day.",
    "Medium shot. Mia sleeps in the forest at night.",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded one)")
    parser.add_argument("--out", type=Path, default=Path("outputs/branches"), help="folder")
    parser.add_argument("--chunks", type=whole_number, default=4, help="per shot (default 4)")
    parser.add_argument("--seed", type=whole_number, default=7, help="of the noise (default 7)")
    return parser.parse_args(arguments)


def branch(flags: argparse.Namespace) -> list[Path]:
    """Makes the three films; returns their files."""
    shots = tuple(Shot(caption, chunks=flags.chunks) for caption in (BEGINNING, ENDINGS[0]))
    first = Director(flags.model, Story(shots, global_caption=STORY, seed=flags.seed))
    beginning = frames_of(next(first) for _ in range(flags.chunks))
    second = first.branch("s2")  # the film up to the second shot, with a pool of its own
    second.add_shot(ENDINGS[1], chunks=flags.chunks)
    endings = {"ending_1": frames_of(first), "ending_2": frames_of(second)}
    second.retake("s2")  # back to the cut; the same caption from other noise
    endings["ending_2_retake"] = frames_of(second)
    video, files = first.story.video, []
    for name, ending in endings.items():
        files.append(flags.out / f"{name}.mp4")
        with FilmWriter(files[-1], video.fps, viewing_scale(video.height)) as film:
            film.append(beginning)
            film.append(ending)
        print(f"{files[-1]}: {film.frames} frames")
    return files


def frames_of(chunks) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks])


if __name__ == "__main__":
    run(lambda: branch(parse()))
