"""A command's output: checked before the work begins, and written by one process at a time.

    with one_writer(out, ("film.json", "film.mp4"), overwrite=False):
        ...

The lock is flock on an open file, so the kernel releases it when the process dies, however that
happens. The lock file names its holder. It is removed at the end, and what a killed process leaves
of it is in nobody's way. A folder within a locked folder has a lock of its own.
"""

import contextlib
import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # what another platform lacks

from causalcine_jax.errors import DataError, UsageError, disk_faults, listed, printable
from causalcine_jax.utils.atomic_file import remove_partials

LOCK = ".lock"
TRIES = 100  # other processes may come and go as often between two steps of ours


@contextlib.contextmanager
def one_writer(
    out: str | Path,
    files: Sequence[str] = (),
    *,
    overwrite: bool = True,
    beside: bool = False,
    flag: str = "--out",
) -> Iterator[None]:
    """Holds the folder `out`, which it makes, as its one writer.

    A folder that was made for nothing is removed again. Of several processes that write one output
    together, the first alone calls this (parallel/processes.py).

    Args:
      out: the folder.
      files: names or patterns of what will be written into it.
      overwrite: whether they may be there already. This removes nothing: `remove_files` does.
      beside: the lock is .NAME.lock beside `out`, which another folder will replace at the end.
      flag: what names `out`, for messages.

    Raises:
      UsageError: another process writes there, a file or folder is in the way, `out` cannot be
        written, or holds one of `files` and `overwrite` is false.
      DataError: the disk is full.
    """
    out = Path(out)
    with _cannot_write(out, flag):
        check_kinds(out, files, flag=flag)
    folder, name = (
        (out.absolute().parent, f".{out.absolute().name}{LOCK}") if beside else (out, LOCK)
    )
    with _locked(folder / name, out, flag):
        if not overwrite:
            check_absent(out, files)
        if not beside:
            for folder in {out, *(there for name in files for there in _folders_of(out, name))}:
                remove_partials(folder)
        yield


@contextlib.contextmanager
def one_file_writer(file: str | Path) -> Iterator[None]:
    """`one_writer` of a single file; the lock is .NAME.lock beside it.

    Raises:
      UsageError: another process writes it, it is a folder, or its folder cannot be written.
      DataError: the disk is full.
    """
    file = Path(file).absolute()
    if file.is_dir():
        raise UsageError(f"{file} is a folder, and a file is written: choose another name")
    with _locked(file.with_name(f".{file.name}{LOCK}"), file, "place"):
        yield


@contextlib.contextmanager
def _locked(lock: Path, out: Path, what: str) -> Iterator[None]:
    """Holds `lock`, for the writer of `out`; removes it and the folders made for it."""
    made: list[Path] = []
    with contextlib.ExitStack() as held:
        held.callback(_remove_empty, made)
        with _cannot_write(out, what):
            held.callback(_release, lock, _lock(lock, out, what, made))
        yield


@contextlib.contextmanager
def _cannot_write(out: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (DataError if full else UsageError)(
            f"cannot write into {out} ({error.strerror or error}): "
            f"{'make room, or ' if full else ''}choose another {what}"
        ) from error


def check_absent(out: Path, files: Iterable[str]) -> None:
    """`UsageError` if one of `files` (names or patterns) is in `out`."""
    if there := there_already(out, files):
        raise UsageError(
            f"{out} holds {listed([str(file.relative_to(out)) for file in there], ', ')} already: "
            "choose another --out, or --overwrite replaces it"
        )


def there_already(out: Path, files: Iterable[str]) -> list[Path]:
    """Those of `files` (names or patterns) that are in `out`, in their order."""
    return [found for name in files for found in sorted(out.glob(name))]


def _folders_of(out: Path, name: str) -> Iterable[Path]:
    """The folders in `out` that hold files of this name or pattern."""
    return () if (folder := str(Path(name).parent)) == "." else out.glob(folder)


def remove_files(out: Path, files: Iterable[str]) -> None:
    """Removes an earlier result, in the order of `files`; `DataError` where that fails.

    Name its record first: then no kill leaves the record beside another result.
    """
    for file in there_already(out, files):
        with disk_faults(f"cannot remove {file}"):
            file.unlink()


def check_no_link(out: Path) -> None:
    """`UsageError` if `out` is a symbolic link, which no complete folder can replace by renaming.

    Call it where `out` will be replaced, before the work.
    """
    if out.is_symlink():
        raise UsageError(
            printable(
                f"{out} is a link, and a folder is renamed to that name at the end: "
                f"name what it links to ({os.readlink(out)}), or remove it"
            )
        )


def check_utf8(path: Path) -> None:
    """`UsageError` if the name of `path` is not UTF-8, as those of stores and checkpoints must be.

    tensorstore takes no other.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            printable(f"{path}: its name is not UTF-8, as tensorstore needs it: choose another")
        ) from None


def check_disk(needed: int, out: Path, *, freed: int = 0, flag: str = "--out") -> None:
    """Raises `DataError` if the disk of `out`, which need not exist, has under `needed` bytes.

    freed  bytes of an earlier result, which is removed first
    flag   what names `out`, for messages
    """
    out = Path(out)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free + freed
    if needed > free:
        raise DataError(
            f"not enough room on the disk: {out} needs up to {_size(needed)}, "
            f"{there} has {_size(free)} free; make room or choose another {flag}"
        )


def check_renames(out: Path) -> None:
    """Raises `DataError` if a folder in `out` cannot be renamed, as complete checkpoints are.

    Buckets mounted as file systems may refuse this, or only for folders that hold folders.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".rename-") as scratch:
            (Path(scratch) / "before" / "inside").mkdir(parents=True)
            (Path(scratch) / "before").rename(Path(scratch) / "after")
    except OSError as error:
        raise DataError(
            f"the storage of {out} cannot rename folders ({error.strerror or error}), so "
            "checkpoints could never be completed: choose another --config.out, such as a "
            "bucket with a hierarchical namespace"
        ) from error


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3f} MB"


def check_kinds(out: Path, files: Iterable[str], *, flag: str = "--out") -> None:
    """`UsageError` if a file is where the folder `out` goes, or a folder where one of `files`."""
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UsageError(f"{above} is a file, and {flag} is a folder: choose another {flag}")
    for found in there_already(out, files):
        if found.is_dir():
            raise UsageError(
                f"{found} is a folder, and a file of this name is written: choose another {flag}"
            )


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _lock(file: Path, out: Path, what: str, made: list[Path]) -> int:
    """The open file that holds the lock. Folders made for it go to `made`, the innermost first."""
    for tries_left in reversed(range(TRIES)):
        made[:0] = [path for path in file.parents if not path.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):
            if tries_left:
                continue  # the last holder was removing a folder that it had made
            raise
        try:
            _take(opened, out, what)
            if _is_at(opened, file):  # else its holder removed it between our open and our lock
                holder = f"process {os.getpid()} on {socket.gethostname()}"
                with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
                    os.ftruncate(opened, 0)
                    os.pwrite(opened, holder.encode(), 0)
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)
    raise OSError(f"{file} comes and goes")


def _take(opened: int, out: Path, what: str) -> None:
    try:
        if fcntl is None:
            raise OSError("this system has no flock")
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(opened, 200, 0).decode("utf-8", "replace") or "another process"
        raise UsageError(
            printable(
                f"{out} is being written by {holder}: wait for it, stop it, or choose another "
                f"{what}"
            )
        ) from None
    except OSError as error:
        print(
            printable(
                f"note: no lock is possible for {out} ({error.strerror or error}): "
                "let no other process write there"
            ),
            file=sys.stderr,
        )


def _is_at(opened: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.stat(file))
    except FileNotFoundError:
        return False


def _release(file: Path, opened: int) -> None:
    with contextlib.suppress(OSError):
        if _is_at(opened, file):
            file.unlink()
    os.close(opened)
