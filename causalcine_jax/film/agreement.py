"""What a film begins with: model, start and devices; and that all processes which make it together have the same.

A process that failed alone, or filmed with other weights than the rest, would leave them waiting for ever or spoil the film unseen. So first they compare what
each was asked for, then look each for itself for what that names, and compare what they found: files by what they hold, weights by a sample of each tensor.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.sharding import Mesh

from causalcine_jax.convert.find import adapter_file, home
from causalcine_jax.convert.lora import loras
from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.film.choices import Choices
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.journal import SHOWN, weights_sample
from causalcine_jax.film.model_folder import PARTS, check_parts, model_defaults
from causalcine_jax.film.record import Recipe
from causalcine_jax.film.start import Start, chosen_start
from causalcine_jax.models.text.tokenizer import tokenizer_file
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.parallel.processes import by_all, check_same, several
from causalcine_jax.utils.atomic_file import file_hash

# What a film.json says of how its film came out, and nobody asks for again.
RESULTS = ("resolved", "retrieved", "timings", "software", "device")


def agreed(
    recipe: Recipe, model: Path | None, choices: Choices
) -> tuple[Start | None, Path, Mesh | None]:
    """What opens the film, the model that makes it, and the devices that make each chunk together (None: one).

    Raises, in all processes what any of them would:
      UsageError: the choices make no sense here, or the processes were not started alike (what differs is named).
      DataError: a file is missing or damaged.
    """
    check_same(_asked(recipe, model, choices))
    start, folder, mesh, found = by_all(lambda: _found(recipe, model, choices))
    check_same(found)
    return start, folder, mesh


def _asked(recipe: Recipe, model: Path | None, choices: Choices) -> dict[str, Any]:
    return {
        "story": recipe.story.to_dict(),
        "film.json": {
            name: value
            for name, value in recipe.recorded.items()
            if name not in ("story", *RESULTS)
        },
        "model": str(model),
        **{name: str(value) for name, value in asdict(choices).items()},
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
    }


def _found(
    recipe: Recipe, model: Path | None, choices: Choices
) -> tuple[Start | None, Path, Mesh | None, dict[str, Any]]:
    raise_faults("generate", choices.faults())
    for each in loras(choices.lora):
        adapter_file(each.path)
    start = chosen_start(choices.start, choices.start_caption, recipe.recorded)
    folder = chosen_model(model, base=choices.base, recorded=recipe.recorded)
    mesh = _mesh(choices.seq)
    if choices.rollout_weights and mesh is None:
        raise UsageError(
            "rollout_weights says how several devices hold the weights: say how many, by seq"
        )
    return start, folder, mesh, _held(folder, choices, start) if several() else {}


def _mesh(seq: int | None) -> Mesh | None:
    """The devices that make a chunk together: `seq` of this process's, or all of several processes'."""
    if not several():
        return make_mesh(seq, jax.devices()[:seq]) if seq else None
    if seq not in (None, jax.device_count()):
        raise UsageError(
            f"{jax.process_count()} processes make a film on all their {jax.device_count()} devices: seq={seq} cannot be, leave it out"
        )
    return make_mesh(jax.device_count())


def _held(folder: Path, choices: Choices, start: Start | None) -> dict[str, Any]:
    """What the files hold: the model's settings as they are, all else as hashes."""
    files = {
        "start": start and start.file,
        "embeddings": choices.embeddings,
        "tiny decoder": choices.tiny_decoder,
    }
    files |= {
        f"lora {number}": adapter_file(each.path) for number, each in enumerate(loras(choices.lora))
    }
    parts = PARTS[:2] if choices.embeddings else PARTS
    check_parts(folder, parts)
    if "text_encoder" in parts:
        files["tokenizer"] = tokenizer_file(home(folder, "text_encoder"))
    defaults = {
        name: value if isinstance(value, str | int) else asdict(value)
        for name, value in model_defaults(folder).items()
    }
    return {
        "model": defaults,
        "weights": {part: weights_sample(folder, part) for part in parts},
        **{name: file_hash(file)[:SHOWN] for name, file in files.items() if file},
    }
