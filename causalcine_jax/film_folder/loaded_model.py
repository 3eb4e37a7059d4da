"""A model as a command asks for it: dtype, adapters, decoder, and the devices that make a chunk."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from causalcine_jax.config import ROLLOUT_WEIGHTS
from causalcine_jax.convert.find import adapter_file
from causalcine_jax.convert.lora import loras
from causalcine_jax.errors import UsageError
from causalcine_jax.film.model_folder import Model, load_model
from causalcine_jax.film.pool import rollout_transformer
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.parallel.gathering import several
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.utils.atomic_file import file_hash


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    mesh       of the devices that make each chunk together; None: one device
    placement  what film.json's `device` says of them
    choices    with the decoder and the adapters
    """

    model: Model
    mesh: Mesh | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    choices: Choices = Choices()


def load_with_choices(
    folder: Path, choices: Choices, mesh: Mesh | None, dtype: str | None = None
) -> LoadedModel:
    """The model in `folder`, loaded under its mesh. Raises as `load_model`.

    dtype  where the choices name none
    """
    with on_mesh(mesh):
        model = load_model(
            folder,
            choices.dtype or dtype,
            embeddings=choices.embeddings,
            tiny_decoder=choices.tiny_decoder,
            lora=choices.lora,
            mesh=mesh,
        )
        placement: dict[str, Any] = {"seq": mesh.size if mesh else 1}
        if placement["seq"] > 1:
            placement["rollout_weights"] = choices.rollout_weights or ROLLOUT_WEIGHTS[0]
            placed = rollout_transformer(model.transformer, placement["rollout_weights"])
            model = replace(model, transformer=placed)
    return LoadedModel(model, mesh, placement, choices)


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """The context in which every thread that uses the model must run."""
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        yield


def film_mesh(choices: Choices) -> Mesh | None:
    """The mesh that makes a chunk: `seq` devices of one process, or all of several processes.

    `UsageError` if there are not so many, or only one and `rollout_weights` is chosen.
    """
    seq = choices.seq
    if not several():
        if choices.rollout_weights and (seq or 1) == 1:
            raise UsageError("rollout_weights needs several devices: give their number with seq")
        return make_mesh(seq, jax.devices()[:seq]) if seq else None
    if seq not in (None, jax.device_count()):
        raise UsageError(
            f"{jax.process_count()} processes make a film on all their {jax.device_count()} "
            f"devices: seq={seq} cannot be, leave it out"
        )
    return make_mesh(jax.device_count())


def added_files(choices: Choices) -> dict[str, Any]:
    """The fields of film.json for the decoder and the adapters: none where there is none."""
    found: dict[str, Any] = {}
    if choices.tiny_decoder is not None:
        found["tiny_decoder"] = {
            "file": choices.tiny_decoder.name,
            "sha256": file_hash(choices.tiny_decoder),
        }
    if adapters := [
        {
            "file": each.path.name,
            "strength": each.strength,
            "sha256": file_hash(adapter_file(each.path)),
        }
        for each in loras(choices.lora)
    ]:
        found["loras"] = adapters
    return found
