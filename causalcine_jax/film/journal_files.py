"""The files of a film's journal (journal.py): where they are, and how they are read."""

import contextlib
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from causalcine_jax.errors import DataError
from causalcine_jax.film.kept_film import KeptChunk
from causalcine_jax.utils.atomic_file import remove_partials

FILE, LATENTS, START = "journal.json", "latents", "start.npy"


def read_start(folder: Path, digest: str | None) -> Float[np.ndarray, "1 f h w z"] | None:
    """The film's start; None if it has no `digest`. `DataError` if it is another or missing."""
    if digest is None:
        return None
    start = _loaded(folder / START)
    if not isinstance(start, np.ndarray) or digest_of(start) != digest:
        raise DataError(
            f"{folder / START}, the start of the film, is missing or damaged: "
            "without it the film cannot go on"
        )
    return start


def digest_of(array: np.ndarray) -> str:
    """SHA-256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def chunk_file(folder: Path, chunk: int) -> Path:
    return folder / LATENTS / f"{chunk:06}.npz"


def chunk_files(folder: Path) -> list[Path]:
    """The files of chunks; other files in that folder are not ours."""
    return [f for f in (folder / LATENTS).glob("*.npz") if re.fullmatch(r"\d{6,}", f.stem)]


def linked(file: Path, other: Path) -> bool:
    """Makes `other` a second name of `file`; False where that cannot be done.

    Files of a journal are replaced and removed, never changed, so both keep their content.
    """
    try:
        other.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, other)
    except OSError:
        return False
    return True


def erase(folder: Path) -> None:
    """Removes a film's journal; files of others stay in the folder. `OSError` where that fails."""
    for file in (folder / FILE, *chunk_files(folder), folder / START):
        file.unlink(missing_ok=True)
    remove_partials(folder / LATENTS)
    with contextlib.suppress(OSError):
        (folder / LATENTS).rmdir()


def read_chunks(folder: Path, shape: tuple[int, ...], layers: int) -> Iterator[KeptChunk]:
    """The chunks in a folder, up to the first that is missing or damaged.

    shape   of a chunk's latents
    layers  of the transformer, for each of which memory retrieved frames
    """
    for number in itertools.count():
        kept = _loaded(chunk_file(folder, number))
        if not isinstance(kept, dict) or kept.keys() != {"latents", "retrieved"}:
            return
        latents, retrieved = kept["latents"], kept["retrieved"]
        if latents.shape != shape or latents.dtype != np.float32 or not np.isfinite(latents).all():
            return
        if retrieved.ndim != 2 or len(retrieved) != layers or retrieved.dtype.kind != "i":
            return
        yield KeptChunk(**kept)


def _loaded(file: Path) -> np.ndarray | dict[str, np.ndarray] | None:
    """The array or arrays in a file; None where it is missing or damaged.

    `DataError` if it cannot be read now: it may be whole.
    """
    try:
        content = io.BytesIO(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        loaded = np.load(content, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except MemoryError:
        raise
    except Exception:  # numpy's and zipfile's kinds of error for damaged files are many
        return None
