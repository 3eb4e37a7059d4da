"""How long a process takes from its start to a film's first frames."""

import itertools
import time
from pathlib import Path

import jax

from benchmarks.film import PROMPT, TINY_DECODER, new_film
from benchmarks.settings import Settings
from causalcine_jax.film.model_folder import load_model


def first_chunk(settings: Settings, folder: str, started: float) -> dict[str, dict[str, float]]:
    """Times a process's start.

    Returns the seconds until the package is imported, the networks in `folder` are loaded, a
    prompt is embedded, and a chunk's frames are there; and all together.
    `started` is the Unix time at which the process was requested.
    """
    moments = {"start": started, "import": time.time()}
    tiny_decoder = Path(folder) / TINY_DECODER if settings.tiny_decoder else None
    model = load_model(
        folder, settings.dtype or str(settings.inference_dtype), tiny_decoder=tiny_decoder
    )
    jax.block_until_ready((model.transformer, model.decoder, model.text_encoder))
    moments["networks"] = time.time()
    film = new_film(model, settings)
    context = jax.block_until_ready(film.embed(PROMPT))
    moments["prompt"] = time.time()
    film.chunk(context)
    moments["first_chunk"] = time.time()
    laps = {name: moments[name] - moments[before] for before, name in itertools.pairwise(moments)}
    return {"seconds": {**laps, "together": moments["first_chunk"] - moments["start"]}}
