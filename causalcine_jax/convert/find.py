"""Where a network lies: in a model folder's room for it, among the files of a folder, in the base of a distilled model, or in a file.

Which file of a folder is which network is told by its keys (kinds.py). A VAE or text encoder that a model folder lacks is that of its base
(metadata.py).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.convert import checkpoint_keys, diffusers_configs, kinds
from causalcine_jax.convert.metadata import bases, read_settings
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError

PARTS = ("transformer", "vae", "text_encoder")
_LOADABLE = (
    ".safetensors",
    ".pt",
    ".pth",
    ".bin",
    ".gguf",
)  # what is looked at in a folder; a file that is named may be called anything
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_BELOW = ("models", "checkpoints")  # folders that the causal children keep their files in


@dataclass(frozen=True)
class Location:
    """Where a network's tensors lie: a file or a folder of shards, the base's own adapter, and the config.json of that network.

    complete    what the tensors cannot tell must stand in config.json: no published file of Wan2.1's own looks like this
    """

    weights: Path
    lora: Path | None = None
    config: Path | None = None
    complete: bool = False


def home(path: Path, part: str) -> Path:
    """The model that `part` of the model at `path` lies in: `path`, or the base of which it has its VAE and text encoder.

    Raises:
      DataError: the part is not in `path`, and the base that its metadata.json names is not there.
    """
    if part == "transformer" or _holds(path, part):
        return path
    return next((base for base in bases(path) if _holds(base, part)), path)


def find_part(path: Path, part: str) -> Location:
    """Where `part` lies in or at `path`, or in its base.

    Raises:
      DataError: it is not there, could be in two places, or shards of it are missing (named).
    """
    what = part.replace("_", " ")
    if not path.exists():
        raise DataError(f"no {what} at {path}: there is no such file or folder")
    path = home(path, part)
    if path.is_file():
        return Location(path, config=_config_of(path.parent, part))
    _refuse_experts(path, part)
    if (path / part).is_dir():
        if own := _of_kind(path, part):
            raise DataError(
                f"{path} holds two formats, {part}/ and {_shown(own[0])}: name the one that is meant"
            )
        return _folder(path / part, part)
    for place in (path, *(path / below for below in _BELOW)):
        found = _of_kind(place, part)
        if len(found) > 1:
            raise DataError(
                f"{place} holds {len(found)} checkpoints, {', '.join(map(_shown, found))}: name the one that is meant, which is a {what}"
            )
        if found and found[0].is_dir():
            return _folder(place, part)
        if found:
            config = _config_of(place, part) or _config_of(path, part)
            return Location(found[0], _own_adapter(place), config, complete=place.name == part)
    others = [other for other in PARTS if (path / other).is_dir()]
    if others:
        raise DataError(
            f"the model folder {path} has no {part}/, only {', '.join(f'{o}/' for o in others)}"
        )
    if broken := next(
        (fault for fault in units(path).values() if isinstance(fault, DataError)), None
    ):
        raise broken
    return _folder(path, part)


def holds(path: Path, part: str) -> bool:
    """Whether `path`, or its base for it, seems to hold `part`, by the keys of its files; those that cannot be read may be it. Raises as `home` does."""
    return _holds(home(path, part), part)


def _holds(path: Path, part: str) -> bool:
    if path.is_file():
        return kinds.kind_of(path) == part
    if (path / part).is_dir() or _of_kind(path, part):
        return True
    if any((path / other).is_dir() for other in PARTS):
        return False
    below = part == "transformer" and any(_of_kind(path / below, part) for below in _BELOW)
    return below or any(isinstance(fault, DataError) for fault in units(path).values())


def adapter_file(path: Path) -> Path:
    """The file of an adapter at `path`: itself, or the only adapter in that folder (peft's). `DataError` where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"no LoRA at {path}: there is no such file")
    found = [file for file, kind in units(path).items() if kind == kinds.ADAPTER]
    if len(found) != 1:
        listed = (
            f"holds {len(found)} LoRAs, {', '.join(file.name for file in found)}"
            if found
            else "holds no LoRA"
        )
        raise DataError(f"{path} {listed}: name the file that is meant")
    return found[0]


def units(folder: Path) -> dict[Path, str | DataError | None]:
    """What a folder itself holds: each file of tensors, or `folder` for all its shards together, with its kind or why it cannot be read."""
    if not folder.is_dir():
        return {}
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in _LOADABLE and file.is_file()
    )
    indices = sorted([*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")])
    named = {key: file for index in indices for key, file in _weight_map(index).items()}
    shards = [file for file in files if file.name in named.values() or _SHARD.fullmatch(file.stem)]
    found = {file: _kind(file) for file in files if file not in shards}
    if indices or shards:
        kinds_there = [_kind(file) for file in shards]
        found[folder] = kinds.kind_of_keys(named) or next(
            (kind for kind in kinds_there if isinstance(kind, str)), None
        )
        found[folder] = found[folder] or next(iter(kinds_there), None)
    return found


def _kind(file: Path) -> str | DataError | None:
    try:
        return kinds.kind_of(file)
    except DataError as error:
        return error


def _weight_map(index: Path) -> dict[str, str]:
    """Key -> shard as an index says; nothing where it is damaged, which whoever opens the folder is told."""
    try:
        there = json.loads(index.read_text("utf-8"))["weight_map"]
        return {key: file for key, file in there.items() if isinstance(file, str)}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError):
        return {}


def _of_kind(folder: Path, part: str) -> list[Path]:
    return [place for place, kind in units(folder).items() if kind == part]


def _shown(place: Path) -> str:
    """A file's name, or that of the first of a folder's shards."""
    return (
        place.name
        if place.is_file()
        else next(
            iter(sorted(file.name for file in place.glob("*.*") if _SHARD.fullmatch(file.stem))),
            place.name,
        )
    )


def _own_adapter(folder: Path) -> Path | None:
    """LongLive's and MemFlow's lora.pt: a dictionary generator_lora beside the base that it belongs to."""
    found = []
    for file, kind in units(folder).items():
        if kind == kinds.ADAPTER and file.is_file():
            with open_tensors(file) as tensors:
                if any(key.startswith(f"{checkpoint_keys.LORA}/") for key in tensors.shapes):
                    found.append(file)
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {len(found)} adapters, {', '.join(file.name for file in found)}: name the base itself, and one as --lora"
        )
    return found[0] if found else None


def _folder(folder: Path, part: str) -> Location:
    if _config_says_other(folder, part):
        raise DataError(
            f"{folder} has no {part.replace('_', ' ')}: its config.json is that of another network"
        )
    _check_numbered(folder)
    return Location(folder, config=_config_of(folder, part), complete=folder.name == part)


def _check_numbered(folder: Path) -> None:
    """Shards without an index still tell by their names how many they are."""
    if any(folder.glob("*.safetensors.index.json")):
        return
    found: dict[tuple[str, str], set[int]] = {}
    for file in folder.glob("*.safetensors"):
        if match := _SHARD.fullmatch(file.stem):
            found.setdefault((match[1], match[3]), set()).add(int(match[2]))
    missing = [
        f"{stem}-{i:05d}-of-{count}.safetensors"
        for (stem, count), there in found.items()
        for i in range(1, int(count) + 1)
        if i not in there
    ]
    if missing:
        raise DataError(
            f"shards missing in {folder}: {', '.join(sorted(missing))}; copy or download them again"
        )


def _refuse_experts(path: Path, part: str) -> None:
    pair = next(
        (
            pair
            for pair in (("transformer", "transformer_2"), ("high_noise_model", "low_noise_model"))
            if (path / pair[1]).is_dir()
        ),
        None,
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
    return (
        file.is_file()
        and diffusers_configs.CLASSES.get(diffusers_configs.class_of(read_settings(file)), part)
        != part
    )
