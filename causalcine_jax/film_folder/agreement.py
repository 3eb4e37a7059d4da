"""Checks that all processes of a film begin with the same model, start and devices.

A process that fails alone would leave the others waiting for ever. One with other weights would
spoil the film unnoticed. So the processes first compare their requests. Then each opens the files
that the request names, and they compare contents: hashes of files, and a sample of each tensor.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.sharding import Mesh

from causalcine_jax.convert.find import adapter_file, home
from causalcine_jax.convert.lora import loras
from causalcine_jax.errors import raise_faults
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.model_folder import PARTS, check_parts, model_defaults
from causalcine_jax.film.weights_sample import SHOWN, weights_sample
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.loaded_model import film_mesh
from causalcine_jax.film_folder.start import Start, chosen_start
from causalcine_jax.film_folder.unfinished import FilmRequest
from causalcine_jax.models.text.tokenizer import tokenizer_file
from causalcine_jax.parallel.gathering import several
from causalcine_jax.parallel.processes import by_all, check_same
from causalcine_jax.utils.atomic_file import file_hash


def agreed(film: FilmRequest) -> tuple[Start | None, Path, Mesh | None]:
    """The film's start, its model folder, and the mesh that makes each chunk (None: one device).

    A film that goes on has no start to open: its journal keeps the latents. An error in one
    process is raised in all of them.

    Raises:
      UsageError: the choices are invalid here, or the processes differ (names what differs).
      DataError: a file is missing or damaged.
    """
    check_same(_request_facts(film))
    start, folder, mesh, found = by_all(lambda: _found(film))
    check_same(found)
    return start, folder, mesh


def _request_facts(film: FilmRequest) -> dict[str, Any]:
    return {
        "story": film.recipe.story.to_dict(),
        "film.json": film.recipe.record.to_dict(),
        "model": str(film.model),
        **{name: str(value) for name, value in asdict(film.choices).items()},
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
    }


def _found(film: FilmRequest) -> tuple[Start | None, Path, Mesh | None, dict[str, Any]]:
    choices, recorded = film.choices, film.recipe.record
    faults = choices.faults(recorded.whole_film)
    if recorded.start and (choices.whole_film or recorded.whole_film):
        faults.append(
            "a whole film goes on from no start, but this film.json's film did "
            f"({recorded.start['file']}): leave out whole_film, or film a story file"
        )
    raise_faults("film", faults)
    for each in loras(choices.lora):
        adapter_file(each.path)
    start = None
    if film.begun is None:
        start = chosen_start(choices.start, choices.start_caption, recorded.start)
    folder = chosen_model(film.model, base=choices.base, recorded=recorded)
    mesh = film_mesh(choices)
    return start, folder, mesh, _file_facts(folder, choices, start) if several() else {}


def _file_facts(folder: Path, choices: Choices, start: Start | None) -> dict[str, Any]:
    """What the files contain: the model's settings as values, everything else as hashes."""
    defaults = {
        name: value if isinstance(value, str | int) else asdict(value)
        for name, value in model_defaults(folder).items()
    }
    files = {"start": start.file if start else None, "embeddings": choices.embeddings}
    return {"model": defaults, **network_facts(folder, choices), **_hashes(files)}


def network_facts(folder: Path, choices: Choices) -> dict[str, Any]:
    """Hashes that identify the networks, the adapters and the decoder.

    Raises:
      DataError: a file is missing or damaged.
    """
    files: dict[str, Path | None] = {"tiny decoder": choices.tiny_decoder}
    files |= {
        f"lora {number}": adapter_file(each.path) for number, each in enumerate(loras(choices.lora))
    }
    parts = PARTS[:2] if choices.embeddings else PARTS
    check_parts(folder, parts)
    if "text_encoder" in parts:
        files["tokenizer"] = tokenizer_file(home(folder, "text_encoder"))
    weights = {part: weights_sample(folder, part) for part in parts}
    return {"weights": weights, **_hashes(files)}


def _hashes(files: dict[str, Path | None]) -> dict[str, str]:
    return {name: file_hash(file)[:SHOWN] for name, file in files.items() if file}
