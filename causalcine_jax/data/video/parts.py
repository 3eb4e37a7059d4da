"""Which of a folder's files are of this command, where several share the folder (`--part K/N`).

A file's part follows from its content alone. So copies of a video fall into one part, and a video
stays in its part when others are added.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from causalcine_jax.data.video import probe
from causalcine_jax.data.video.manifest import Row, content_id
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import DataError
from causalcine_jax.utils.atomic_file import file_hash


def part_of(sha256: str, parts: int) -> int:
    """The part, from 1 to `parts`, of a file with this content."""
    return int(sha256[:12], 16) % parts + 1


def of_part(work: Work, files: Sequence[Path]) -> Mapping[Path, str | None]:
    """The files of `work.config.part`, each with its hash if the part depends on it.

    Every file is read once to know its part, and its hash is not computed again (probe.py).

    A file that cannot be read is of part 1, which says why.

    Raises:
      DataError: none is.
    """
    number, count = work.config.part
    if count == 1:
        return dict.fromkeys(files)
    manifest = work.manifest("hashes")
    known = {file: manifest.get(row_id) for file in files if (row_id := _id(file))}
    pending = [file for file, row in known.items() if row is None]
    with work.bar(len(files), "file", "part", len(files) - len(pending)) as bar:
        for file, row in work.executor.each(_hashed, pending):
            bar.update(1)
            if isinstance(row, dict):
                manifest.add(row)
                known[file] = row
    hashes = {file: row["sha256"] if row else None for file, row in known.items()}
    all_hashes = [(file, hashes.get(file)) for file in files]
    mine = {
        file: sha256
        for file, sha256 in all_hashes
        if number == (part_of(sha256, count) if sha256 else 1)
    }
    if not mine:
        raise DataError(
            f"part {number}/{count} has none of the {len(files)} files in {work.config.folder}: "
            "leave it out, or choose fewer parts"
        )
    return mine


def _id(file: Path) -> str:
    try:
        return content_id("hash", probe.state(file))
    except DataError:
        return ""  # probing it says why


def _hashed(file: Path) -> Row | None:
    try:
        return {"id": content_id("hash", probe.state(file)), "sha256": file_hash(file)}
    except DataError:
        return None
