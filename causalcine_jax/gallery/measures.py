"""What `causalcine evaluate --films` measured, as facts of a film's card."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.plain_data import read_plain

FILE = "measures.json"
# On prompted ranges.
SHOWN = {
    "alignment": "text alignment",
    "subject": "subject within shots",
    "background": "background within shots",
    "inter_shot": "character between shots",
    "dynamics": "dynamics",
}
Facts = tuple[tuple[str, str], ...]


def read_measures(folders: Iterable[Path]) -> dict[str, Facts]:
    """The facts of every measured film by the SHA-256 of its file.

    Raises:
      UsageError: a folder holds no measures.
      DataError: its measures cannot be read, or are not those of films.
    """
    found: dict[str, Facts] = {}
    for folder in folders:
        file = folder / FILE
        if not file.is_file():
            raise UsageError(
                f"--measures {folder}: there is no {FILE}: name the --out of "
                "causalcine evaluate --films"
            )
        data = read_plain(file)
        films = data.get("per_film") if isinstance(data, Mapping) else None
        if not isinstance(films, Mapping):
            raise DataError(f"{file} holds no measures of films")
        for name, film in films.items():
            try:
                found[film["sha256"]] = tuple(_facts(film))
            except (KeyError, TypeError, AttributeError):
                raise DataError(f"{file}: {name} lacks its measures: measure it again") from None
    return found


def _facts(film: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    numbers = {
        "shot-cut accuracy": film["cuts"]["sca"],
        "aesthetic": film["aesthetic"],
        **{label: film["asked"]["means"][name] for name, label in SHOWN.items()},
    }
    for name, value in numbers.items():
        if isinstance(value, int | float):
            yield name, f"{value:.3f}"
