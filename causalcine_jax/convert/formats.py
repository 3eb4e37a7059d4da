"""Any supported checkpoint as the tensors of one network under the original Wan2.1 keys.

    our model folder      transformer/ vae/ text_encoder/
    Diffusers' folder     transformer/ vae/ text_encoder/ tokenizer/ model_index.json
    Wan2.1's own folder   diffusion_pytorch_model*.safetensors  Wan2.1_VAE.pth
                          models_t5_umt5-xxl-enc-bf16.pth  google/umt5-xxl/
    fine-tuned, causal    a .pt of several dictionaries, or a base and its lora.pt
    one file              safetensors or torch.save, also ComfyUI's fp8_scaled (eight_bits.py)

`find.find_part` locates a network and `open_part` opens it. Callers of `open_part` do not depend on
the format.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.convert import (
    checkpoint_keys,
    diffusers_configs,
    eight_bits,
    lora,
    lora_scale,
    lora_terms,
)
from causalcine_jax.convert.diffusers_tables import TIED, KeyTable, key_table
from causalcine_jax.convert.find import Location, adapter_file, find_part
from causalcine_jax.convert.metadata import read_settings
from causalcine_jax.convert.tensor_files import TensorFiles, open_tensors
from causalcine_jax.convert.unsupported import unsupported
from causalcine_jax.errors import DataError

ORIGINAL, DIFFUSERS = "original Wan2.1 keys", "Diffusers keys"
PACKED_TOKENIZER = "spiece_model"
ROWS = 256  # of a tied tensor that are compared with its original, at each end


class PartTensors:
    """The tensors of one network under original Wan2.1 keys, read on demand.

    Reading merges adapters and widens eight-bit weights.

    path, part  where the tensors lie, and their network: transformer, vae or text_encoder
    naming      of their keys on disk: ORIGINAL or DIFFUSERS
    shapes      by original key
    dtypes      safetensors' names (F32, BF16, ...) of what is read, by original key
    settings    config.json under our configs' names; empty without one
    foreign_config  config.json is Diffusers' or transformers', where omitted fields mean Wan2.1's
    complete    config.json must state what shapes cannot (see `find.Location`)
    files       that the tensors are read from
    settings_files  beside them, which change what is read: config.json, adapter_config.json
    absent      keys that an index lists and no file has
    notes       lines for the user about how they are read
    """

    def __init__(
        self,
        where: Location,
        tensors: TensorFiles,
        names: Mapping[str, str],
        part: str,
        settings: Mapping[str, Any],
    ):
        """`names` maps each plain key to its key in `tensors`."""
        self.path, self.part = where.weights, part
        self.complete = where.complete
        self.files: list[Path] = list(tensors.files)
        self.settings_files: list[Path] = [where.config] if where.config else []
        self.notes: list[str] = []
        self._tensors = tensors
        scales = eight_bits.scales(names, tensors, str(self.path))
        self._packed_tokenizer = names.get(PACKED_TOKENIZER) if part == "text_encoder" else None
        names = {
            name: key
            for name, key in names.items()
            if name not in scales.aside and key != self._packed_tokenizer
        }
        self._table = key_table(part, names)
        self.naming, originals = _translated(self.path, names, self._table)
        self._keys = {original: names[plain] for original, plain in originals.items()}
        self._scales = {
            original: scales.of[plain]
            for original, plain in originals.items()
            if plain in scales.of
        }
        self.shapes = {original: tensors.shapes[key] for original, key in self._keys.items()}
        stored = {original: tensors.dtypes[key] for original, key in self._keys.items()}
        self._float8 = {
            original for original, dtype in stored.items() if dtype in eight_bits.FLOAT8
        }
        self.dtypes = {
            original: eight_bits.READ_AS if original in self._float8 else dtype
            for original, dtype in stored.items()
        }
        self.absent = tensors.absent
        self.settings = diffusers_configs.ours(settings)
        self.foreign_config = diffusers_configs.class_of(settings) in diffusers_configs.FOREIGN
        self._terms: dict[str, list[lora_terms.Term]] = {}
        if self._float8:
            count, scaled = len(self._float8), len(self._scales)
            self.notes.append(
                f"{self.path.name}: {count} weights are float8, {scaled} of them with a scale; "
                "they are read as bfloat16"
            )

    def merge(self, asked: lora.Lora, tensors: TensorFiles, alpha: float | None) -> None:
        """Merges the adapter in `tensors`, on top of those merged before."""
        names = {"to_original": self._table.to_original, "to_diffusers": self._table.to_diffusers}
        found = lora.adapter(asked, tensors, self.shapes, names, alpha)
        self.files += tensors.files
        self.settings_files += lora_scale.settings_files(tensors.files[0])
        taken = [term.named for terms in found.terms.values() for term in terms]
        self.notes += [*_choice(tensors, taken), str(found)]
        for key, terms in found.terms.items():
            self._terms.setdefault(key, []).extend(terms)

    def packed_tokenizer(self) -> bytes | None:
        """The spiece.model that ComfyUI packs into its text encoders, or None."""
        return (
            self._tensors.read(self._packed_tokenizer).tobytes() if self._packed_tokenizer else None
        )

    def source_key(self, key: str) -> str:
        """The name of the original `key` in the files, whether or not it is there."""
        if key in self._keys:
            return self._keys[key].rsplit("/", 1)[-1]
        return (self._table.to_diffusers(key) if self.naming == DIFFUSERS else None) or key

    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor with all adapters' updates; reads no more of the file."""
        tensor = self._tensors.read_slice(self._keys[key], index)
        if key in self._float8:
            scale = self._tensors.read(self._scales[key]) if key in self._scales else None
            tensor = eight_bits.dequantised(tensor, index, scale)
        terms = self._terms.get(key)
        return lora_terms.merged(tensor, index, self.shapes[key], terms) if terms else tensor


@contextlib.contextmanager
def open_part(
    path: str | os.PathLike,
    part: str,
    *,
    weights: str = "auto",
    lora_path: lora.AskedLoras = None,
    lora_alpha: float | None = None,
) -> Iterator[PartTensors]:
    """Opens the `part` (transformer, vae or text_encoder) that `path` holds, in any format.

    Args:
      weights: which weights of a .pt, see `checkpoint_keys.network_keys`.
      lora_path: adapters to merge, see `lora.loras`. If `path` is a base's folder, the base's own
        lora.pt is merged without being asked for.
      lora_alpha: alpha of the only adapter, where nothing else states it (default: its rank).

    Raises:
      DataError: nothing there, missing shards (named), a damaged file, mixed formats, or an
        unsupported network (which, and why).
    """
    where = find_part(Path(path), part)
    settings = read_settings(where.config)
    with contextlib.ExitStack() as opened:
        tensors = opened.enter_context(open_tensors(where.weights))
        names = checkpoint_keys.network_keys(tensors.shapes, where.weights, weights)
        plain = {name: tensors.shapes[key] for name, key in names.items()}
        refused = unsupported(
            part, plain, {name: tensors.dtypes[key] for name, key in names.items()}, settings
        )
        if refused:
            raise DataError(f"{where.weights} is {refused}")
        view = PartTensors(where, tensors, names, part, settings)
        _refuse_untied(tensors, names, where.weights)
        view.notes += _choice(tensors, list(names.values()))
        asked = _adapters(where, lora.loras(lora_path)) if part == "transformer" else []
        files = [adapter_file(each.path) for each in asked]
        lora.refuse_twice(files)
        for each, file in zip(asked, files, strict=True):
            view.merge(each, opened.enter_context(open_tensors(file)), lora_alpha)
        yield view


def _refuse_untied(tensors: TensorFiles, names: Mapping[str, str], path: Path) -> None:
    """Refuses a copy of a tensor that is not equal to it, as only one of the two can be read.

    The first and the last rows are compared: a whole token embedding has 2 GB.
    """
    for copy, original in TIED.items():
        if copy not in names or original not in names:
            continue
        keys = (names[original], names[copy])
        shape, shape_of_copy = (tensors.shapes[key] for key in keys)
        ends = [(slice(ROWS),), (slice(-ROWS, None),)] if len(shape) == 2 else []
        pairs = [[tensors.read_slice(key, rows) for key in keys] for rows in ends]
        if shape != shape_of_copy or not all(np.array_equal(one, two) for one, two in pairs):
            raise DataError(
                f"{path}: {copy} differs from {original}, of which it must be a copy; "
                "remove the one that the model was not trained with"
            )


def _choice(tensors: TensorFiles, taken: list[str]) -> list[str]:
    """A note on which of several networks in a file the keys `taken` are of, if there are more."""
    several = checkpoint_keys.stored_networks(tensors.shapes)
    if len(several) < 2 or not taken:
        return []
    chosen = next((name for name in several if re.match(rf"(.*[/.])?{name}[/.]", taken[0])), None)
    file = tensors.files[0].name
    return [f"{file} holds {', '.join(several)}: {chosen} is taken"] if chosen else []


def _adapters(where: Location, asked: tuple[lora.Lora, ...]) -> list[lora.Lora]:
    """The base's own adapter, then the requested ones.

    If the own one is also requested, it is merged once, at the requested strength.
    """
    own = where.lora
    if own is None or any(each.path.exists() and each.path.samefile(own) for each in asked):
        return list(asked)
    return [lora.Lora(own), *asked]


def _translated(
    path: Path, names: Mapping[str, str], table: KeyTable
) -> tuple[str, dict[str, str]]:
    """(naming of the keys, original key -> plain key).

    Unknown keys keep their name; `describe` reports them.
    """
    originals = [name for name in names if table.to_diffusers(name) and not table.to_original(name)]
    foreign = [name for name in names if table.to_original(name) and not table.to_diffusers(name)]
    if originals and foreign:
        raise DataError(
            f"{path} mixes formats: {len(originals)} tensors have original Wan2.1 keys "
            f"({originals[0]}) and {len(foreign)} those of Diffusers ({foreign[0]}); "
            "remove the files that do not belong"
        )
    if not foreign:
        return ORIGINAL, {name: name for name in names}
    # A tied tensor is a copy of one that is there under its own name.
    tied = {name for name, other in TIED.items() if other in names}
    return DIFFUSERS, {table.to_original(name) or name: name for name in names if name not in tied}
