"""Measures how accurate a VAE is and how fast.

    python -m benchmarks.vae [MODEL ...] [--world base] [--films 16] [--picture FILE.png]

Prints one JSON object, for each model folder (default: the embedded one).
PSNR is over held-out films: at first frames after cuts, and elsewhere.
It also has characters' sharpness (reconstruction.py), and frames per second of
encoding and decoding in chunks.
`--picture` draws frames of films beside each VAE's reconstruction.
"""

import argparse
import itertools
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reconstruction import reconstruction, round_trip, round_trips
from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.convert import load_vae
from causalcine_jax.evaluation.storyworld.true_films import true_cuts, true_film
from causalcine_jax.film.chosen_model import EMBEDDED
from causalcine_jax.models.vae.video import encode_pieces, to_model_range
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import WORLDS, WorldStory, sample_story
from causalcine_jax.utils.environment import device, software

SEED = 20261128  # of stories that no stage trains on
REPEATS = 3


def speed(vae: VAE, film: np.ndarray) -> dict[str, float]:
    """Returns frames per second of encoding and decoding a stream in chunks, compiled before."""
    video, stride = to_model_range(jnp.asarray(film[None])), vae.cfg.temporal_stride
    first, later = stride * (CHUNK_FRAMES - 1) + 1, stride * CHUNK_FRAMES
    bounds = [0, *range(first, len(film), later), len(film)]

    def encode():
        pieces = (video[:, begin:end] for begin, end in itertools.pairwise(bounds))
        return jax.block_until_ready(encode_pieces(vae, pieces))

    def decode(parts):
        frames, cache = vae.decode_first(parts[0])
        for latents in parts[1:]:
            frames, cache = vae.decode_next(cache, latents)
        return jax.block_until_ready(frames)

    def rate(call) -> float:
        start = time.perf_counter()
        for _ in range(REPEATS):
            call()
        return round(REPEATS * len(film) / (time.perf_counter() - start), 1)

    parts = encode()
    decode(parts)
    return {"encode": rate(encode), "decode": rate(lambda: decode(parts))}


def picture(vaes: list[VAE], stories: list[WorldStory], file: str) -> None:
    """Draws a column for the truth and for each VAE.

    Rows are the frames before, at and after the first cut of each story.
    """
    from PIL import Image

    rows = []
    for story in stories:
        film = true_film(story)
        versions = [film, *(round_trip(vae, film) for vae in vaes)]
        cut = true_cuts(story)[0]
        rows += [
            np.concatenate([version[frame] for version in versions], axis=1)
            for frame in (cut - 1, cut, cut + 6)
        ]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((4 * sheet.width, 4 * sheet.height), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "models", nargs="*", default=[str(EMBEDDED)], help="model folders with a VAE"
    )
    parser.add_argument("--world", choices=WORLDS, default="base")
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--picture", help="a .png to write")
    args = parser.parse_args()
    stories = [sample_story(SEED, index, WORLDS[args.world]()) for index in range(args.films)]
    vaes = [load_vae(model) for model in args.models]
    results = {
        model: {
            **reconstruction(round_trips(vae, stories)),
            "frames_per_second": speed(vae, true_film(stories[0])),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(vae)),
        }
        for model, vae in zip(args.models, vaes, strict=True)
    }
    if args.picture:
        picture(vaes, stories[:3], args.picture)
    record = {
        "benchmark": "vae",
        "world": args.world,
        "films": args.films,
        "seed": SEED,
        "models": results,
        "device": device(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "software": software(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
