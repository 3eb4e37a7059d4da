"""The small files beside a network: config.json, and metadata.json.

metadata.json records how a model was made and how it is used. A distilled model shares its VAE and
text encoder with the model that it was distilled from. metadata.json names that model as `base`, by
its path from the folder. A folder without these two networks takes them from its base:

    storyworld/           transformer/  vae/  text_encoder/  metadata.json
    storyworld-student/   transformer/  metadata.json {"base": "../storyworld", ...}

A folder with all three networks may name a base too, but does not need it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.plain_data import parse_plain, read_text

METADATA = "metadata.json"
MANIFEST = "manifest.json"  # of a converted model: the SHA-256 of every file, source and target


def read_settings(file: Path | None) -> dict[str, Any]:
    """The content of a config.json or metadata.json; empty for None."""
    if file is None:
        return {}
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold a JSON object, not {type(settings).__name__}")
    return settings


def read_json(file: Path) -> Any:
    """The content of a JSON file beside weights, which editors may have given a mark in front.

    Raises:
      DataError: it is not JSON, or repeats a key.
    """
    try:
        return parse_plain(read_text(file), str(file), as_json=True)
    except UsageError as error:
        raise DataError(f"{error}; copy it again") from error


def load_metadata(folder: str | os.PathLike) -> dict[str, Any]:
    """The metadata that `save_model` was given; empty without a metadata.json."""
    file = Path(folder) / METADATA
    return read_settings(file if file.is_file() else None)


def base_of(folder: str | os.PathLike) -> Path | None:
    """The model that the one in `folder` was distilled from; None if metadata.json names none.

    Raises:
      DataError: it does not exist.
    """
    file, named = Path(folder) / METADATA, load_metadata(folder).get("base")
    if named is None:
        return None
    if not isinstance(named, str) or not named:
        raise DataError(
            f"{file}: base must be the path from this folder to a model folder, such as "
            f"../storyworld, not {named!r}"
        )
    base = Path(folder) / named
    tidy = Path(os.path.normpath(base))  # may be another folder, if `folder` is a link
    if not base.exists():
        raise DataError(
            f"{file} names {named} as base, and there is no {tidy}: put the model that this one "
            "was distilled from there, or correct base"
        )
    return tidy if tidy.exists() and tidy.samefile(base) else base


def bases(folder: str | os.PathLike) -> Iterator[Path]:
    """The base of the model in `folder`, the base of that base, and so on.

    Raises:
      DataError: a base does not exist, or the bases form a circle.
    """
    below, seen = Path(folder), {Path(folder).resolve()}
    while (base := base_of(below)) is not None:
        if base.resolve() in seen:
            raise DataError(
                f"{below / METADATA}: base leads in a circle, back to {base}: "
                "name a model that holds its own vae/ and text_encoder/"
            )
        seen.add(base.resolve())
        yield base
        below = base


def base_entry(base: str | os.PathLike, folder: str | os.PathLike) -> str:
    """The entry in metadata.json of `folder` with which `base_of` finds `base`.

    A relative path, because both may be moved together.
    """
    base = Path(base).resolve()
    try:
        return Path(os.path.relpath(base, Path(folder).resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return base.as_posix()
