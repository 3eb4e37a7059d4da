"""Content-aware memory routing on weights that were made without it, such as Self-Forcing's.

    python launch/convert.py --from self_forcing_dmd.pt --vae Wan2.1-T2V-1.3B \\
        --text-encoder Wan2.1-T2V-1.3B --out models/self-forcing
    python examples/camr_on_other_weights.py --model models/self-forcing --out outputs/camr

Films one story twice, without memory and with CAMR, from the same noise. Prints which earlier shots
memory went back to. Without --model it takes the weights inside the package.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from causalcine_jax import Director, MemoryConfig, load_model, read_story
from causalcine_jax.cli import ArgumentParser, run
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.render.mp4 import FilmWriter, viewing_scale

STORY = Path(__file__).parent / "demo.yaml"
# CAMR adds no parameters, so any causal weights take it. Positions count within the receptive
# field: a frame from far back must not get a distance that the weights never saw.
POLICIES = {
    "none": MemoryConfig("none", window_chunks=3, memory_frames=0),
    "camr": MemoryConfig(
        "camr", window_chunks=3, memory_frames=5, positions="block_relative", route_clean=True
    ),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded one)")
    parser.add_argument("--story", type=Path, default=STORY, help="(default: examples/demo.yaml)")
    parser.add_argument("--out", type=Path, default=Path("outputs/camr"), help="folder for films")
    return parser.parse_args(arguments)


def compare(flags: argparse.Namespace) -> dict[str, Counter[str]]:
    """Makes the films; returns per policy how many frames the last shot retrieved of which shot."""
    model, story = load_model(flags.model), read_story(flags.story)
    print(f"the model's own memory: {model.memory}")
    went_back = {}
    for name, memory in POLICIES.items():
        director = Director(model, story, memory=memory)
        path = flags.out / f"{name}.mp4"
        retrieved: Counter[str] = Counter()
        scale = viewing_scale(director.story.video.size[0])
        with FilmWriter(path, director.story.video.fps, scale) as film:
            for chunk in director:
                film.append(chunk.frames)
                if chunk.shot == director.resolved.shots[-1]:
                    retrieved += shots_of(chunk, director)
        went_back[name] = retrieved
        print(f"{path}: the last shot looked back at {dict(retrieved) or 'nothing'}")
    return went_back


def shots_of(chunk: Chunk, director: Director) -> Counter[str]:
    """How many of the frames that memory retrieved for a chunk lie in which shot."""
    shots = director.resolved.shots
    frames = chunk.retrieved[chunk.retrieved >= 0]
    of_chunk = np.repeat(np.arange(len(shots)), [shot.chunks for shot in shots])
    return Counter(shots[of_chunk[frame // director.model.chunk_frames]].id for frame in frames)


if __name__ == "__main__":
    run(lambda: compare(parse()))
