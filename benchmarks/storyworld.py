"""Measures how many StoryWorld films this machine draws per second.

    python benchmarks/storyworld.py [--world base|storyworld] [--films 20]

Prints one JSON object: films/s of the host's part and of the pixels, and what it ran on.
The host's part is story, captions and scene parameters. Pixels are drawn under numpy and under
jax.jit, compiled once and measured with the result on the host.
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.storyworld import WorldConfig, render, sample_story, scene_parameters
from causalcine_jax.utils.environment import device, software


def films_per_second(draw, inputs) -> float:
    start = time.perf_counter()
    for item in inputs:
        draw(item)
    return round(len(inputs) / (time.perf_counter() - start), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", choices=("base", "storyworld"), default="base")
    parser.add_argument(
        "--films", type=int, default=20, help="films drawn with jax; numpy draws a tenth of them"
    )
    args = parser.parse_args()
    world = getattr(WorldConfig, args.world)()
    height, width = world.height, world.width
    scenes = [scene_parameters(sample_story(0, i, world))["shapes"] for i in range(args.films)]

    draw = jax.jit(lambda shapes: render({"shapes": shapes}, height, width, jnp))
    start = time.perf_counter()
    jax.block_until_ready(draw(scenes[0]))
    compile_seconds = time.perf_counter() - start
    result = {
        "benchmark": "storyworld",
        "world": args.world,
        "film": [world.frames, height, width],
        "films_per_second": {
            "scene": films_per_second(
                lambda i: scene_parameters(sample_story(1, i, world)), range(args.films)
            ),
            "numpy": films_per_second(
                lambda shapes: render({"shapes": shapes}, height, width),
                scenes[: max(1, args.films // 10)],
            ),
            "jax.jit": films_per_second(lambda shapes: np.asarray(draw(shapes)), scenes),
        },
        "compile_seconds": round(compile_seconds, 2),
        "device": device(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "software": software(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
