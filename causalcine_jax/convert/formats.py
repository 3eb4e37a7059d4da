"""Whatever people have on disk, as the tensors of one network under the original Wan2.1 keys.

    our model folder      transformer/ vae/ text_encoder/
    Diffusers' folder     transformer/ vae/ text_encoder/ tokenizer/ model_index.json
    Wan2.1's own folder   diffusion_pytorch_model*.safetensors  Wan2.1_VAE.pth  models_t5_umt5-xxl-enc-bf16.pth  google/umt5-xxl/
    a causal child        a .pt of several dictionaries, or a base and its lora.pt
    one file              .safetensors, .pt or .pth

A VAE or text encoder that a model folder lacks is that of its base (metadata.py).

`find_part` says where a network lies, `open_part` opens it: from then on nobody needs to know what it was.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.convert import checkpoint_keys, diffusers_configs, lora
from causalcine_jax.convert.diffusers_tables import TIED, KeyTable, key_table
from causalcine_jax.convert.metadata import bases, read_settings
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.convert.unsupported import unsupported
from causalcine_jax.errors import DataError

PARTS = ("transformer", "vae", "text_encoder")
ORIGINAL, DIFFUSERS = "original Wan2.1 keys", "Diffusers keys"
_WAN_FILES = {
    "transformer": ("diffusion_pytorch_model*.safetensors",),
    "vae": ("*VAE*.pth", "*VAE*.safetensors", "*vae*.safetensors"),
    "text_encoder": ("models_t5*.pth", "models_t5*.safetensors", "*umt5*.safetensors"),
}
_LOADABLE = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Location:
    """Where a network's tensors lie: a file or a folder of shards, the adapter to merge, and the config.json of that network."""

    weights: Path
    lora: Path | None = None
    config: Path | None = None


class PartTensors:
    """The tensors of one network under original Wan2.1 keys, read when asked for, an adapter merged on the way.

    path        where they lie
    naming      the keys they have there (ORIGINAL or DIFFUSERS)
    shapes      by original key;  dtypes: safetensors' names (F32, BF16, ...)
    settings    config.json, in our configs' names; empty where there is none
    files       that the tensors are read from
    """

    def __init__(self, path: Path, tensors, names: Mapping[str, str], part: str, settings: Mapping[str, Any]):
        """`tensors` is a `TensorFiles`; `names` gives each plain key's key in it."""
        self.path = path
        self.files: list[Path] = list(tensors.files)
        self._tensors = tensors
        self._table = key_table(part, names)
        self.naming, originals = _translated(path, names, self._table)
        self._keys = {original: names[plain] for original, plain in originals.items()}
        self.shapes = {original: tensors.shapes[key] for original, key in self._keys.items()}
        self.dtypes = {original: tensors.dtypes[key] for original, key in self._keys.items()}
        self.settings = diffusers_configs.ours(settings)
        self._adapters: dict[str, lora.Adapter] = {}
        self._adapter_tensors = None

    def merge(self, path: Path, tensors, alpha: float | None) -> None:
        """Adds the adapter in `tensors` to every weight that it has an update for."""
        found = lora.adapters(tensors, checkpoint_keys.lora_keys(tensors.shapes, path), self._table.to_original, alpha, str(path))
        faults = []
        for key, adapter in found.items():
            update = (tensors.shapes[adapter.up][0], tensors.shapes[adapter.down][1])
            if self.shapes.get(key) != update:
                faults.append(f"{key} {update}, the base has {self.shapes.get(key, 'none')}")
        if faults:
            raise DataError(f"the LoRA {path} does not belong to {self.path}: {'; '.join(faults[:8])}")
        self.files += tensors.files
        self._adapters, self._adapter_tensors = found, tensors

    def source_key(self, key: str) -> str:
        """The name that the original `key` has, or would have, in the files."""
        if key in self._keys:
            return self._keys[key].rsplit("/", 1)[-1]
        return (self._table.to_diffusers(key) if self.naming == DIFFUSERS else None) or key

    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, with the adapter's update; no more of the file is read."""
        tensor = self._tensors.read_slice(self._keys[key], index)
        adapter = self._adapters.get(key)
        return tensor if adapter is None else lora.merged(tensor, index, adapter, self._adapter_tensors)


@contextlib.contextmanager
def open_part(
    path: str | os.PathLike,
    part: str,
    *,
    weights: str = "auto",
    lora_path: str | os.PathLike | None = None,
    lora_alpha: float | None = None,
) -> Iterator[PartTensors]:
    """Opens the `part` (transformer, vae or text_encoder) that `path` holds, in any supported format.

    Args:
      weights: which of a .pt's weights, see `checkpoint_keys.network_keys`.
      lora_path: an adapter to merge; a base's own lora.pt, where `path` is their folder, is found without.
      lora_alpha: its alpha, where the file tells none (default: its rank).

    Raises:
      DataError: nothing there, missing shards (named), a damaged file, mixed formats, a network that is not supported (which, and why).
    """
    where = find_part(Path(path), part)
    settings = read_settings(where.config)
    with contextlib.ExitStack() as opened:
        tensors = opened.enter_context(open_tensors(where.weights))
        names = checkpoint_keys.network_keys(tensors.shapes, where.weights, weights)
        plain = {name: tensors.shapes[key] for name, key in names.items()}
        refused = unsupported(part, plain, {name: tensors.dtypes[key] for name, key in names.items()}, settings)
        if refused:
            raise DataError(f"{where.weights} is {refused}")
        view = PartTensors(where.weights, tensors, names, part, settings)
        adapter = Path(lora_path) if lora_path is not None else where.lora
        if adapter is not None and part == "transformer":
            if not adapter.is_file():
                raise DataError(f"no LoRA at {adapter}: there is no such file")
            view.merge(adapter, opened.enter_context(open_tensors(adapter)), lora_alpha)
        yield view


def home(path: Path, part: str) -> Path:
    """The model that `part` of the model at `path` lies in: `path`, or the base of which it has its VAE and text encoder.

    Raises:
      DataError: the part is not in `path`, and the base that its metadata.json names is not there.
    """
    if part == "transformer" or _holds(path, part):
        return path
    return next((base for base in bases(path) if _holds(base, part)), path)


def find_part(path: Path, part: str) -> Location:
    """Where `part` lies in or at `path`, or in its base. Nothing is opened.

    Raises:
      DataError: it is not there, could be in two places, or shards of it are missing (named).
    """
    what = part.replace("_", " ")
    if not path.exists():
        raise DataError(f"no {what} at {path}: there is no such file or folder")
    path = home(path, part)
    if path.is_file():
        if path.suffix not in _LOADABLE:
            raise DataError(f"{path} is no file of tensors that can be read: expected {', '.join(_LOADABLE)}")
        return Location(path, config=_config_of(path.parent, part))
    _refuse_experts(path, part)
    own = _wan_files(path, part)
    if (path / part).is_dir():
        if own:
            raise DataError(f"{path} holds two formats, {part}/ and {own[0].name}: name the one that is meant")
        return _folder(path / part, part)
    if part == "transformer" and own and [file.name for file in own] != ["diffusion_pytorch_model.safetensors"]:
        return _folder(path, part)
    if len(own) > 1:
        raise DataError(f"{path} holds {' and '.join(file.name for file in own)}: name the {what} that is meant")
    if own:
        return Location(own[0], config=_config_of(path, part))
    others = [other for other in PARTS if (path / other).is_dir()]
    if others:
        raise DataError(f"the model folder {path} has no {part}/, only {', '.join(f'{o}/' for o in others)}")
    checkpoint = _causal_child(path) if part == "transformer" else None
    return checkpoint or _folder(path, part)


def holds(path: Path, part: str) -> bool:
    """Whether `path`, or its base for it, seems to hold `part`, by the names of files and the class in config.json. Raises as `home` does."""
    return _holds(home(path, part), part)


def _holds(path: Path, part: str) -> bool:
    if path.is_file():
        name = path.name.lower()
        return part == ("vae" if "vae" in name else "text_encoder" if "t5" in name else "transformer")
    if (path / part).is_dir() or _wan_files(path, part):
        return True
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return diffusers_configs.CLASSES.get(diffusers_configs.class_of(read_settings(path / "config.json"))) == part
    return part == "transformer" and _causal_child(path) is not None


def _wan_files(path: Path, part: str) -> list[Path]:
    """The files of `part` in Wan2.1's own folder."""
    if part == "transformer" and _config_says_other(path, part):
        return []  # Diffusers gives its VAE's file the same name
    return sorted({file for pattern in _WAN_FILES[part] for file in path.glob(pattern)})


def _folder(folder: Path, part: str) -> Location:
    if _config_says_other(folder, part):
        raise DataError(f"{folder} has no {part.replace('_', ' ')}: its config.json is that of another network")
    _check_numbered(folder)
    return Location(folder, config=_config_of(folder, part))


def _check_numbered(folder: Path) -> None:
    """Shards without an index still tell by their names how many they are."""
    if any(folder.glob("*.safetensors.index.json")):
        return
    found: dict[tuple[str, str], set[int]] = {}
    for file in folder.glob("*.safetensors"):
        if match := re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})", file.stem):
            found.setdefault((match[1], match[3]), set()).add(int(match[2]))
    missing = [
        f"{stem}-{i:05d}-of-{count}.safetensors"
        for (stem, count), there in found.items()
        for i in range(1, int(count) + 1)
        if i not in there
    ]
    if missing:
        raise DataError(f"shards missing in {folder}: {', '.join(sorted(missing))}; copy or download them again")


def _causal_child(folder: Path) -> Location | None:
    """The .pt in a folder, and the adapter beside it; None where there is no .pt."""
    for place in (folder, folder / "models", folder / "checkpoints"):
        files = sorted([*place.glob("*.pt"), *place.glob("*.pth")])
        adapters = [file for file in files if file.stem == "lora"]
        bases = [file for file in files if file.stem != "lora" and "vae" not in file.stem.lower() and "t5" not in file.stem.lower()]
        if len(bases) == 1:
            return Location(bases[0], lora=adapters[0] if adapters else None)
        if bases:
            raise DataError(f"{place} holds {len(bases)} checkpoints, {', '.join(file.name for file in bases)}: name the one that is meant")
    return None


def _refuse_experts(path: Path, part: str) -> None:
    pair = next(
        (pair for pair in (("transformer", "transformer_2"), ("high_noise_model", "low_noise_model")) if (path / pair[1]).is_dir()), None
    )
    if part == "transformer" and pair:
        raise DataError(
            f"{path} is Wan2.2-A14B: two transformers that share the work by noise level, and only one is run here; name {pair[0]}/ or "
            f"{pair[1]}/ itself to load that one"
        )


def _config_of(folder: Path, part: str) -> Path | None:
    file = folder / "config.json"
    return file if file.is_file() and not _config_says_other(folder, part) else None


def _config_says_other(folder: Path, part: str) -> bool:
    """Whether config.json in `folder` is of another network: Wan2.1's own folder has one, the transformer's, beside all its files."""
    file = folder / "config.json"
    return file.is_file() and diffusers_configs.CLASSES.get(diffusers_configs.class_of(read_settings(file)), part) != part


def _translated(path: Path, names: Mapping[str, str], table: KeyTable) -> tuple[str, dict[str, str]]:
    """The naming of the keys, and original key -> plain key. Unknown keys keep their name, and are reported when sizes are known."""
    originals = [name for name in names if table.to_diffusers(name) and not table.to_original(name)]
    foreign = [name for name in names if table.to_original(name) and not table.to_diffusers(name)]
    if originals and foreign:
        raise DataError(
            f"{path} mixes formats: {len(originals)} tensors have original Wan2.1 keys ({originals[0]}) and {len(foreign)} those of "
            f"Diffusers ({foreign[0]}); remove the files that do not belong"
        )
    if not foreign:
        return ORIGINAL, {name: name for name in names}
    tied = {name for name, other in TIED.items() if other in names}  # a copy of a tensor that is there under its own name
    return DIFFUSERS, {table.to_original(name) or name: name for name in names if name not in tied}
