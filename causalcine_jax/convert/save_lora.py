"""Saves adapters as peft does: adapter_model.safetensors beside adapter_config.json.

`--lora FOLDER` of film and convert reads them, and so does peft on a Wan2.1 transformer.
"""

import os
from pathlib import Path

import numpy as np

from causalcine_jax.convert import tables
from causalcine_jax.convert.safetensors_files import write_tensors
from causalcine_jax.errors import disk_faults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.lora import LAYERS, Adapters
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.parallel.processes import is_first
from causalcine_jax.utils.atomic_file import atomic_file, write_json

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of peft's keys


def save_lora(
    folder: str | os.PathLike,
    transformer: Transformer,
    adapters: Adapters,
    *,
    alpha: float,
    base: str | os.PathLike,
) -> None:
    """Writes the folder of an adapter, in float32.

    With several processes whose devices share the adapters, all call it, and the first writes.

    Args:
      transformer: that they belong to; its weights are not read.
      alpha: the adapters' result is scaled by alpha / rank.
      base: where the transformer came from.

    Raises:
      DataError: the disk is full or cannot be written.
    """
    folder = Path(folder)
    places = tables.places(transformer, tables.TRANSFORMER, transformer.config.patch_size)
    modules = {
        layer: [
            place.key.removesuffix(".weight")
            for place in places
            if place.path == f"blocks.{path}.weight"
        ]
        for layer, path in LAYERS.items()
        if layer in adapters
    }
    # Rows are outputs in torch: A is [rank, in], B is [out, rank].
    tensors = {
        f"{PREFIX}{module}.lora_{side}.weight": matrix
        for layer, names in modules.items()
        for side, values in (("A", adapters[layer].down), ("B", adapters[layer].up))
        for module, matrix in zip(
            names, np.moveaxis(gather_to_host(values[...]), -1, -2), strict=True
        )
    }
    if not is_first():
        return
    specs = [(key, matrix.shape) for key, matrix in tensors.items()]
    settings = {
        "peft_type": "LORA",
        "r": next(iter(adapters.values())).down.shape[-1],
        "lora_alpha": alpha,
        "target_modules": list(modules),
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": False,
        "base_model_name_or_path": str(base),
    }
    with disk_faults(f"cannot write the adapter {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        # First, because the strength of weights without it would be guessed.
        write_json(folder / SETTINGS, settings)
        with atomic_file(folder / WEIGHTS) as partial:
            write_tensors(partial, specs, np.dtype(np.float32), tensors.values())
