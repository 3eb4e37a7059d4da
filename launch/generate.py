"""Makes a film from a story, chunk by chunk.

    python launch/generate.py --story examples/demo.yaml --out outputs/demo

Leaves in --out:
    film.mp4            grows as film.mp4.part while chunks are made, and can be watched meanwhile
    contact_sheet.png   the film on one page: a row per shot, its caption, the cuts
    memory.png          which older frames memory brought back for each chunk
    film.json           everything that went into the film; `--story film.json` makes it again
"""

import argparse
from pathlib import Path

from causalcine_jax.cli import run
from causalcine_jax.config import POLICIES


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--story", required=True, type=Path, help="a story (.yaml, .json), or the film.json of an earlier film")
    parser.add_argument("--out", required=True, type=Path, help="folder for the film; made if missing")
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded weights)")
    parser.add_argument("--seed", type=int, help="of the noise (default: the story's)")
    parser.add_argument("--steps", type=int, help="solver steps per chunk (default: the model's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance, 1 for none (default: the model's)")
    parser.add_argument("--policy", choices=POLICIES, help="how memory is chosen (default: the model's)")
    parser.add_argument("--sampler", choices=("unipc", "euler", "few_step"), help="solver (default: the model's)")
    parser.add_argument("--scale", type=int, help="enlarge film.mp4 by this integer (default: to at least 384 pixels in height)")
    parser.add_argument("--pool-frames", type=int, help="latent frames of history kept (default: the whole film)")
    parser.add_argument("--no-progress", action="store_true", help="say nothing but errors")
    return parser.parse_args(arguments)


def main() -> None:
    flags = parse()
    from causalcine_jax.generation.provenance import read_recipe

    recipe = read_recipe(flags.story)
    # After the story is understood: a typing error in it should not wait for jax.
    from causalcine_jax.generation.generate import Choices, generate

    choices = Choices(
        seed=flags.seed,
        steps=flags.steps,
        guidance=flags.guidance,
        solver=flags.sampler,
        policy=flags.policy,
        pool_frames=flags.pool_frames,
        scale=flags.scale,
    )
    generate(recipe, flags.out, model=flags.model, choices=choices, progress=not flags.no_progress)


if __name__ == "__main__":
    run(main)
