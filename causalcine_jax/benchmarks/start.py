"""How long a process takes from its start to a film's first frames."""

import itertools
import os
import time

import jax

from causalcine_jax.benchmarks.settings import Settings
from causalcine_jax.benchmarks.streaming import new_film, random_model


def first_chunk(settings: Settings) -> dict[str, dict[str, float]]:
    """Seconds until the package is imported, the networks are there (made, not read from disk), a chunk's frames are there; and all together.

    Counted from when the process was asked for, which the environment variable BENCH_STARTED says.
    """
    moments = {"start": float(os.environ.get("BENCH_STARTED", time.time())), "import": time.time()}
    model = random_model(settings)
    jax.block_until_ready((model.transformer, model.vae))
    moments["networks"] = time.time()
    film = new_film(model, settings)
    film.chunk(film.embed(""), 0)
    moments["first_chunk"] = time.time()
    laps = {name: moments[name] - moments[before] for before, name in itertools.pairwise(moments)}
    return {"seconds": {**laps, "together": moments["first_chunk"] - moments["start"]}}
