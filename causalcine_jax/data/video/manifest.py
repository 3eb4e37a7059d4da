"""The rows that the stages of `causalcine prepare` hand on, kept on disk so that each can resume.

A row is a JSON object with an "id": a hash of all that the row depends on. A stage whose row is
there is not run again. Rows of other inputs and settings stay: going back to them costs nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from causalcine_jax.errors import disk_faults
from causalcine_jax.utils.atomic_file import atomic_file

Row = dict[str, Any]


def content_id(*parts: Any) -> str:
    """A hash of JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def path_text(path: Path) -> str:
    """A path as text; bytes of its name that are not UTF-8 are escaped, such as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Manifest:
    """The rows of one stage: a JSONL file to which one process appends.

    A killed writer leaves at most one torn line at the end, which is cut off when the file is
    opened again. Other lines that cannot be read stay, and are left out and counted.

    damaged  the number of such lines

    Args:
      file: of the rows.
      sync: whether a row is on the disk before `add` returns: for rows that cost money.

    Raises:
      DataError: the file cannot be read or written.
    """

    def __init__(self, file: Path, sync: bool = False):
        self._file, self._sync = file, sync
        self._rows: dict[str, Row] = {}
        self.damaged = 0
        with disk_faults(f"cannot read {file}"):
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = 0
            if file.exists():
                with open(file, "rb") as lines:
                    for line in lines:
                        if not line.endswith(b"\n"):
                            break
                        whole += len(line)
                        row = _row(line)
                        if row is None:
                            self.damaged += 1
                        else:
                            self._rows[row["id"]] = row
                os.truncate(file, whole)

    def get(self, row_id: str) -> Row | None:
        return self._rows.get(row_id)

    def add(self, row: Row) -> None:
        """Appends a row. `DataError` on a full disk: what is torn is cut off at the next start."""
        then = "; make room, then run again to go on"
        with disk_faults(f"cannot write {self._file}", then), open(self._file, "ab") as rows:
            rows.write(json_line(row))
            if self._sync:
                rows.flush()
                os.fsync(rows.fileno())
        self._rows[row["id"]] = row


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("id"), str) else None


def json_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Writes all rows at once, as one atomic file."""
    with atomic_file(file) as partial, open(partial, "wb") as lines:
        lines.writelines(map(json_line, rows))
