"""Files that appear under their final name only when complete, and the hash that identifies one."""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalcine_jax.errors import disk_faults

_PARTIAL = re.compile(r".+\.\d+-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to, then renames it to `path`.

    No two processes share a temporary path. After an error it is removed and `path` is untouched.

    Raises:
      DataError: an OSError occurred inside (a full disk, no permission); names the file.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with disk_faults(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes an atomic file of text, in UTF-8. Raises as `atomic_file`.

    Bytes of a file's name that are not UTF-8 become \\udce9, from which JSON reads the name back.
    """
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any, *, ensure_ascii: bool = True) -> None:
    """Writes an atomic file of JSON with an indent of two. Raises as `atomic_file`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=ensure_ascii) + "\n")


def remove_partials(folder: Path, *, below: bool = False) -> None:
    """Removes temporary files that killed processes left in `folder`, or anywhere `below` it.

    Only the folder's one writer (utils/output.py) may call this.
    """
    for file in folder.rglob("*.tmp") if below else folder.glob("*.tmp"):
        if _PARTIAL.fullmatch(file.name):
            with contextlib.suppress(OSError):
                file.unlink()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes. `DataError` where it cannot be read."""
    with disk_faults(f"{file} cannot be read"), open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def append_line(file: Path, line: bytes) -> None:
    """Appends a line, on a line of its own also after one that a crash left incomplete."""
    with open(file, "ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            line = line if opened.read(1) == b"\n" else b"\n" + line
        opened.write(line + b"\n")
