"""A film that is directed while it streams: a shot is added after some chunks have been made.

    python examples/stream.py --out outputs/stream.mp4
    python examples/stream.py --model models/self-forcing --out outputs/stream.mp4

Prints a line per chunk. The film grows as stream.unfinished.mp4 and can be watched meanwhile.
"""

import argparse
from pathlib import Path

from causalcine_jax import Director, Story, load_model
from causalcine_jax.cli import ArgumentParser, run, whole_number
from causalcine_jax.config import PoolConfig
from causalcine_jax.render.mp4 import FilmWriter, viewing_scale
from causalcine_jax.story import Shot

STORY = "A gentle tale about Mia the fox and Otto the bear."
SHOTS = (
    "Wide shot. Mia walks left in the meadow at sunset. Mia is blue with a scarf.",
    "Close-up. Otto waves on the beach by day.",
)
# Nobody says what Mia looks like any more: only memory knows.
RETURN = "Medium shot. Mia dances in the city at night."


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded one)")
    parser.add_argument("--out", type=Path, default=Path("outputs/stream.mp4"), help="the film")
    parser.add_argument("--chunks", type=whole_number, default=4, help="per shot (default 4)")
    parser.add_argument("--seed", type=whole_number, default=7, help="of the noise (default 7)")
    return parser.parse_args(arguments)


def stream(flags: argparse.Namespace) -> list[str]:
    """Makes the film; returns the id of the shot that each chunk belongs to."""
    model = load_model(flags.model)
    story = Story(
        tuple(Shot(caption, chunks=flags.chunks) for caption in SHOTS),
        global_caption=STORY,
        seed=flags.seed,
    )
    # History is allocated before the first chunk: room for the shot that will be added, too.
    pool = (len(SHOTS) + 1) * flags.chunks * model.chunk_frames
    director = Director(model, story, pool=PoolConfig(pool))
    scale, shots = viewing_scale(director.story.video.height), []
    with FilmWriter(flags.out, director.story.video.fps, scale) as film:
        for chunk in director:
            film.append(chunk.frames)
            shots.append(chunk.shot.id)
            cut = "  cut" if chunk.is_cut else ""
            seconds = sum(chunk.seconds.values())
            said = f"chunk {chunk.index + 1:2d}  shot {chunk.shot.id}  {seconds:.2f} s{cut}"
            print(said, flush=True)
            if chunk.index == flags.chunks:  # the second shot has begun
                added = director.add_shot(RETURN, chunks=flags.chunks)
                print(f"added shot {added.id}, from chunk {added.first_chunk + 1}: {RETURN}")
    print(f"{flags.out}: {film.frames} frames")
    return shots


if __name__ == "__main__":
    run(lambda: stream(parse()))
