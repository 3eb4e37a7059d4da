"""Finds a network on disk: in a model folder, among the files of a folder, in a base, in a file.

The keys in a file decide which network it is (kinds.py). A VAE or text encoder that a model folder
lacks is taken from its base (metadata.py).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.convert import checkpoint_keys, diffusers_configs, kinds
from causalcine_jax.convert.metadata import bases, read_json, read_settings
from causalcine_jax.convert.tensor_files import FORMATS, SUFFIXES, open_tensors
from causalcine_jax.errors import DataError

PARTS = ("transformer", "vae", "text_encoder")
# The files of a folder that are examined; a file given by name may have any suffix.
_LOADABLE = (*SUFFIXES, ".gguf")  # GGUF is told what to take instead
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_BELOW = ("models", "checkpoints")  # where fine-tuned causal models keep their files


@dataclass(frozen=True)
class Location:
    """Where a network lies.

    weights   a file, or a folder of shards
    lora      the base's own adapter
    config    the config.json of that network
    complete  config.json must state what shapes cannot; false for Wan2.1's own published files
    """

    weights: Path
    lora: Path | None = None
    config: Path | None = None
    complete: bool = False


def home(path: Path, part: str) -> Path:
    """The model that holds `part` of the model at `path`: `path`, or its base.

    Raises:
      DataError: `path` lacks the part, and the base that metadata.json names does not exist.
    """
    if part == "transformer" or _holds(path, part):
        return path
    return next((base for base in bases(path) if _holds(base, part)), path)


def find_part(path: Path, part: str) -> Location:
    """Where `part` lies: at `path`, in it, or in its base.

    Raises:
      DataError: it is not there, it is ambiguous, or shards are missing (named).
    """
    what = part.replace("_", " ")
    if not path.exists():
        raise DataError(f"no {what} at {path}: there is no such file or folder")
    path = home(path, part)
    if path.is_file():
        if (match := _SHARD.fullmatch(path.stem)) and int(match[3]) > 1:
            raise DataError(
                f"{path} is one of {int(match[3])} shards: name its folder, {path.parent}"
            )
        return Location(path, config=_config_of(path.parent, part))
    _refuse_experts(path, part)
    if (path / part).is_dir():
        if own := _of_kind(path, part):
            raise DataError(
                f"{path} holds two formats, {part}/ and {_shown(own[0])}: name the one to use"
            )
        return _folder(path / part, part)
    for place in (path, *(path / below for below in _BELOW)):
        found = _of_kind(place, part)
        if len(found) > 1:
            raise DataError(
                f"{place} holds {len(found)} checkpoints, {', '.join(map(_shown, found))}: "
                f"name the one to use, a {what}"
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
    """Whether `path`, or its base, seems to hold `part`, by the keys of its files.

    Unreadable files count as possible matches. Raises as `home` does.
    """
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
    """The adapter's file at `path`: the file itself, or the only adapter in a folder (peft's).

    Raises:
      DataError: there is none, or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"no LoRA at {path}: there is no such file")
    there = units(path)
    found = [file for file, kind in there.items() if kind == kinds.ADAPTER]
    damaged = [fault for fault in there.values() if isinstance(fault, DataError)]
    if damaged and not found:
        raise damaged[0]
    if len(found) != 1:
        listed = (
            f"holds {len(found)} LoRAs, {', '.join(file.name for file in found)}"
            if found
            else "holds no LoRA"
        )
        raise DataError(f"{path} {listed}: name the file to use")
    return found[0]


def units(folder: Path) -> dict[Path, str | DataError | None]:
    """The units of tensors in a folder: each file, and `folder` itself for all shards together.

    Each has its kind, or the error that reading it gave.
    """
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
        shard_kinds = [_kind(file) for file in shards]
        found[folder] = kinds.kind_of_keys(named) or next(
            (kind for kind in shard_kinds if isinstance(kind, str)), None
        )
        found[folder] = found[folder] or next(iter(shard_kinds), None)
    return found


def _kind(file: Path) -> str | DataError | None:
    try:
        return kinds.kind_of(file)
    except DataError as error:
        return error


def _weight_map(index: Path) -> dict[str, str]:
    """Key -> shard by an index; empty if it is damaged, which opening the folder reports."""
    try:
        listed = read_json(index)["weight_map"]
        return {key: file for key, file in listed.items() if isinstance(file, str)}
    except (DataError, KeyError, AttributeError, TypeError):
        return {}


def _of_kind(folder: Path, part: str) -> list[Path]:
    return [place for place, kind in units(folder).items() if kind == part]


def _shown(place: Path) -> str:
    """The name of a file, or of the first shard in a folder."""
    return (
        place.name
        if place.is_file()
        else next(
            iter(sorted(file.name for file in place.glob("*.*") if _SHARD.fullmatch(file.stem))),
            place.name,
        )
    )


def _own_adapter(folder: Path) -> Path | None:
    """The lora.pt of LongLive and MemFlow: a dictionary generator_lora beside its base."""
    found = []
    for file, kind in units(folder).items():
        if kind == kinds.ADAPTER and file.is_file():
            with open_tensors(file) as tensors:
                if any(key.startswith(f"{checkpoint_keys.LORA}/") for key in tensors.shapes):
                    found.append(file)
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {len(found)} adapters, {', '.join(file.name for file in found)}: "
            "name the base itself, and one as --lora"
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
    """Raises `DataError` for missing shards. Their names state the count, even without an index."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for kind in FORMATS:
        for file in (
            folder.glob(f"*.{kind}") if not any(folder.glob(f"*.{kind}.index.json")) else ()
        ):
            if match := _SHARD.fullmatch(file.stem):
                found.setdefault((match[1], match[3], kind), set()).add(int(match[2]))
    missing = [
        f"{stem}-{i:05d}-of-{count}.{kind}"
        for (stem, count, kind), there in found.items()
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
            f"{path} is Wan2.2-A14B: two transformers that share the work by noise level, and only "
            f"one is run here; name {pair[0]}/ or {pair[1]}/ itself to load that one"
        )


def _config_of(folder: Path, part: str) -> Path | None:
    file = folder / "config.json"
    return file if file.is_file() and not _config_says_other(folder, part) else None


def _config_says_other(folder: Path, part: str) -> bool:
    """Whether config.json in `folder` is of another network.

    Wan2.1's own folder has one, the transformer's, beside all its files.
    """
    file = folder / "config.json"
    return (
        file.is_file()
        and (name := diffusers_configs.class_of(read_settings(file))) in diffusers_configs.CLASSES
        and diffusers_configs.CLASSES[name] != part
    )
