"""The small files beside a network: config.json, and metadata.json, which says how a model came to be and how it is used.

A distilled model shares its VAE and text encoder with the model it was distilled from. metadata.json names that model as `base`, by its
path from the folder, and a folder without these two networks has them from there:

    storyworld/           transformer/  vae/  text_encoder/  metadata.json
    storyworld-student/   transformer/  metadata.json {"base": "../storyworld", ...}

A folder that holds all three may name its base as well; it can then be used without it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError

METADATA = "metadata.json"


def read_settings(file: Path | None) -> dict[str, Any]:
    """What a config.json or metadata.json says; nothing where there is none."""
    if file is None:
        return {}
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{file} is not JSON ({error}); copy it again") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold a JSON object, not {type(settings).__name__}")
    return settings


def load_metadata(folder: str | os.PathLike) -> dict[str, Any]:
    """What `save_model` was told about the model; empty where there is no metadata.json."""
    file = Path(folder) / METADATA
    return read_settings(file if file.is_file() else None)


def base_of(folder: str | os.PathLike) -> Path | None:
    """The model that the one in `folder` was distilled from; None where metadata.json names none. `DataError` if it is not there."""
    file, said = Path(folder) / METADATA, load_metadata(folder).get("base")
    if said is None:
        return None
    if not isinstance(said, str) or not said:
        raise DataError(
            f"{file}: base must be the path from this folder to a model folder, such as ../storyworld, not {said!r}"
        )
    base = Path(folder) / said
    tidy = Path(os.path.normpath(base))  # another place where `folder` is a link
    if not base.exists():
        raise DataError(
            f"{file} names {said} as base, and there is no {tidy}: put the model that this one was distilled from there, or mend base"
        )
    return tidy if tidy.exists() and tidy.samefile(base) else base


def bases(folder: str | os.PathLike) -> Iterator[Path]:
    """The model that the one in `folder` was distilled from, the model that this one was distilled from, and so on.

    Raises:
      DataError: one of them is not there, or they lead in a circle.
    """
    below, seen = Path(folder), {Path(folder).resolve()}
    while (base := base_of(below)) is not None:
        if base.resolve() in seen:
            raise DataError(
                f"{below / METADATA}: base leads in a circle, back to {base}: name a model that holds its own vae/ and text_encoder/"
            )
        seen.add(base.resolve())
        yield base
        below = base


def base_entry(base: str | os.PathLike, folder: str | os.PathLike) -> str:
    """What metadata.json in `folder` has to say for `base_of` to find `base`: a relative path, as both may be moved together."""
    base = Path(base).resolve()
    try:
        return Path(os.path.relpath(base, Path(folder).resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return base.as_posix()
