"""Compiled programs kept on disk, so that the next start loads them instead of compiling them again.

    --no-compile-cache  >  --compile-cache DIR  >  JAX_COMPILATION_CACHE_DIR  >  the user's cache directory

The user's is ~/.cache/causalcine_jax/programs/VERSIONS-PROCESSOR (XDG_CACHE_HOME in ~/.cache's place), bounded in size at
each start. Nothing here imports jax.

jax's own bound (jax_compilation_cache_max_size) is not used: it needs the package filelock, which jax does not bring, and
writes no more once a process was stopped between an entry and its time stamp.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import stat
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax import __version__
from causalcine_jax.errors import UsageError

LARGEST = 2**31  # bytes of all programs in the user's cache directory
# Loading a program takes jax a few milliseconds, and writing it too: one that compiles faster is not worth a file.
SHORTEST_COMPILE = 0.01  # seconds
_FOLDER, _ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# jax's warnings
_TROUBLE = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL
)


@dataclass(frozen=True)
class CompileCache:
    """Where compiled programs are kept and why.

    folder  the folder, or an address such as gs://...; None where nothing is kept
    reason  who asked for that
    fault   why the folder that was asked for cannot be used
    """

    folder: str | None
    reason: str
    fault: str = ""

    def in_words(self) -> str:
        """In one line, such as a --version prints."""
        if self.folder is None:
            return f"compiled programs are not kept: {self.fault or self.reason}"
        size = sum(size for _, _, size in _files(self.folder))
        return f"compiled programs are kept in {self.folder} ({self.reason}), {size / 1e6:.1f} MB"


def compile_cache_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what `keep_compiled` takes: flags.compile_cache and flags.no_compile_cache."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--compile-cache",
        "--compile_cache",  # as train.py spells it
        metavar="DIR",
        help="keep compiled programs in DIR (default: in the user's cache directory)",
    )
    nothing = "compile everything anew and keep nothing"
    one.add_argument("--no-compile-cache", "--no_compile_cache", action="store_true", help=nothing)


def chosen_compile_cache(
    folder: str | os.PathLike | None = None, off: bool = False
) -> CompileCache:
    """Which cache a command with these flags uses. Makes the folder; changes nothing in this process.

    `UsageError` where `folder` is a file.
    """
    if off:
        return CompileCache(None, "--no-compile-cache")
    if os.environ.get(_ENABLED, "").lower() in ("0", "false", "no", "off", "n", "f"):
        return CompileCache(None, f"{_ENABLED}={os.environ[_ENABLED]}")
    if folder:
        if "://" in str(folder):
            return CompileCache(str(folder), "--compile-cache")
        folder, reason = Path(folder).absolute(), "--compile-cache"
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--compile-cache {folder} is a file: name a folder")
    elif os.environ.get(_FOLDER):
        return CompileCache(os.environ[_FOLDER], _FOLDER)
    else:
        folder, reason = _programs() / _versions(), "the default"
    fault = _fault(folder)
    return CompileCache(None, reason, fault) if fault else CompileCache(str(folder), reason)


def keep_compiled(folder: str | os.PathLike | None = None, off: bool = False) -> CompileCache:
    """Keeps the programs that this process, and those that it starts, compile from now on.

    What hinders that is said in one line on stderr.

    `UsageError` where `folder` is a file.
    """
    cache = chosen_compile_cache(folder, off)
    if cache.fault:
        print(f"note: {cache.in_words()}", file=sys.stderr)
    if cache.folder is None:
        _tell_jax(_ENABLED, "jax_enable_compilation_cache", False)
        return cache
    if cache.reason != _FOLDER:
        _tell_jax(_FOLDER, "jax_compilation_cache_dir", cache.folder)
        _tell_jax(_SHORTEST, "jax_persistent_cache_min_compile_time_secs", SHORTEST_COMPILE)
    if cache.reason == "the default":
        shrink(_programs(), LARGEST)
    _say_troubles_once(Path(cache.folder))
    return cache


def shrink(folder: Path, largest: int) -> None:
    """Removes from `folder` the files that were used longest ago, until the others have at most `largest` bytes."""
    files = sorted(_files(folder), reverse=True)
    kept = 0
    for _, file, size in files:
        kept += size
        if kept > largest:
            with contextlib.suppress(OSError):  # another process was first
                file.unlink()


def _files(folder: str | Path) -> list[tuple[float, Path, int]]:
    """Every file in `folder`: when it was last used, its path, its bytes."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = Path(parent, name)
                status = file.stat()
                found.append((max(status.st_atime, status.st_mtime), file, status.st_size))
    return found


def _programs() -> Path:
    """All versions' programs."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")
    return Path(caches).absolute() / "causalcine_jax" / "programs"


def _versions() -> str:
    """Tells versions apart, and processors: homes are shared by machines with other instructions."""
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        processor = next(line for line in lines if line.lower().startswith(("flags", "features")))
    fingerprint = hashlib.sha256(f"{platform.machine()} {processor}".encode()).hexdigest()[:8]
    versions = (f"{name}{importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))
    return "-".join((__version__, *versions, fingerprint))


def _fault(folder: Path) -> str:
    """Makes `folder`; says why programs cannot be kept there, if so. What other users may write is not run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            return f"{folder} belongs to another user"
        if status.st_mode & stat.S_IWOTH:
            return f"{folder} can be written by all users"
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"


def _tell_jax(variable: str, option: str, value: str | float | bool) -> None:
    """Sets one of jax's options in this process, whether jax is imported yet or not, and in those that it starts."""
    os.environ[variable] = str(value)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(option, value)


def _say_troubles_once(folder: Path) -> None:
    """One line in place of jax's warnings of entries that it cannot read or write. Unreadable ones are removed, to be made anew."""
    said, show = [], warnings.showwarning

    def show_once(message, category, filename, lineno, file=None, line=None):
        if (trouble := _TROUBLE.match(str(message))) is None:
            return show(message, category, filename, lineno, file, line)
        doing, program, error = trouble.groups()
        if doing == "reading":
            for entry in folder.glob(f"{program}-*-cache"):
                with contextlib.suppress(OSError):
                    entry.unlink()
        if not said:
            said.append(doing)
            done = "read" if doing == "reading" else "written"
            first = error.splitlines()[0] if error else "no reason given"
            line = f"note: the compiled programs in {folder} cannot all be {done} ({first}): compiling instead"
            print(line, file=sys.stderr)
        return None

    warnings.showwarning = show_once
