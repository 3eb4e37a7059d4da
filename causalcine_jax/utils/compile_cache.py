"""Keeps compiled programs on disk, so that the next start loads them instead of compiling.

    --no-compile-cache  >  --compile-cache DIR  >  JAX_COMPILATION_CACHE_DIR  >  the user's cache

The user's cache is ~/.cache/causalcine_jax/programs/VERSIONS-PROCESSOR, or the same under
XDG_CACHE_HOME. Each start bounds its size. One of several processes keeps nothing there, because
the folder must be one that all share. This module does not import jax.

jax's own bound (jax_compilation_cache_max_size) is not used. It needs the package filelock, which
jax does not install. It also stops writing for good if a process dies between an entry and its time
stamp.
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
from causalcine_jax.errors import UsageError, first_line
from causalcine_jax.utils.environment import one_of_several

LARGEST = 2**31  # bytes of all programs in the user's cache directory
# jax needs a few milliseconds to load or write a program, so faster compilations are not stored.
SHORTEST_COMPILE = 0.01  # seconds
_FOLDER, _ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# How jax words its warnings about cache entries.
_TROUBLE = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL
)


@dataclass(frozen=True)
class CompileCache:
    """Where compiled programs are kept and why.

    folder  the folder, or a URL such as gs://...; None where nothing is kept
    reason  the flag or variable that decided this, or "the default"
    fault   why the requested folder cannot be used
    """

    folder: str | None
    reason: str
    fault: str = ""

    def in_words(self) -> str:
        """One line, as --version prints it."""
        if self.folder is None:
            return f"compiled programs are not kept: {self.fault or self.reason}"
        size = sum(size for _, _, size in _files(self.folder))
        return f"compiled programs are kept in {self.folder} ({self.reason}), {size / 1e6:.1f} MB"


def compile_cache_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `keep_compiled` takes: flags.compile_cache and flags.no_compile_cache."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--compile-cache",
        "--compile_cache",  # as train.py spells it
        metavar="DIR",
        help="keep compiled programs in DIR (default: in the user's cache directory)",
    )
    nothing = "compile every program again and keep none"
    one.add_argument("--no-compile-cache", "--no_compile_cache", action="store_true", help=nothing)


def chosen_compile_cache(
    folder: str | os.PathLike | None = None, off: bool = False
) -> CompileCache:
    """The cache that a command with these flags uses. Creates the folder; configures nothing.

    Raises:
      UsageError: `folder` is a file.
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
    elif one_of_several():
        # jax writes programs from the first process alone. With a folder each, the others would
        # compile what the first loads, and wait for its part in the compilation.
        return CompileCache(None, "one of several processes: name a shared --compile-cache")
    else:
        folder, reason = _programs() / _versions(), "the default"
    fault = _fault(folder)
    return CompileCache(None, reason, fault) if fault else CompileCache(str(folder), reason)


def keep_compiled(folder: str | os.PathLike | None = None, off: bool = False) -> CompileCache:
    """Keeps the programs that this process and its child processes compile from now on.

    If the folder cannot be used, prints one line on stderr.

    Raises:
      UsageError: `folder` is a file.
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
    """Removes the least recently used files of `folder` until at most `largest` bytes remain."""
    files = sorted(_files(folder), reverse=True)
    kept = 0
    for _, file, size in files:
        kept += size
        if kept > largest:
            with contextlib.suppress(OSError):  # another process may have removed it
                file.unlink()


def _files(folder: str | Path) -> list[tuple[float, Path, int]]:
    """Every file in `folder` as (time of last use, path, bytes)."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = Path(parent, name)
                status = file.stat()
                found.append((max(status.st_atime, status.st_mtime), file, status.st_size))
    return found


def user_cache() -> Path:
    """This package's folder in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")
    return Path(caches).absolute() / "causalcine_jax"


def processor() -> str:
    """The processor's instruction sets, as /proc/cpuinfo lists them."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line for line in lines if line.lower().startswith(("flags", "features")))
    return platform.processor()


def _programs() -> Path:
    """The folder that holds the programs of all versions."""
    return user_cache() / "programs"


def _versions() -> str:
    """A folder name for these versions and this processor.

    A home directory may be shared by machines with other instruction sets.
    """
    fingerprint = hashlib.sha256(f"{platform.machine()} {processor()}".encode()).hexdigest()[:8]
    versions = (f"{name}{importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))
    return "-".join((__version__, *versions, fingerprint))


def make_private(folder: Path) -> None:
    """Creates a folder, and those above it that are missing, for this user alone.

    `mkdir` with parents gives its mode to the last folder only, and the others the umask's.
    """
    for level in reversed((folder, *folder.parents)):
        if not level.exists():
            level.mkdir(mode=0o700, exist_ok=True)


def _fault(folder: Path) -> str:
    """Creates `folder`; returns why it cannot hold programs, or "".

    A folder that other users can write to is refused, because its programs would be executed.
    """
    try:
        make_private(folder)
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
    """Sets a jax option in this process, imported or not yet, and in its child processes."""
    os.environ[variable] = str(value)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(option, value)


def _say_troubles_once(folder: Path) -> None:
    """Replaces jax's warnings about unreadable or unwritable entries by one line.

    Unreadable entries are removed, so that they are compiled again.
    """
    show = warnings.showwarning
    reported: list[str] = []

    def show_once(message, category, filename, lineno, file=None, line=None):
        if (trouble := _TROUBLE.match(str(message))) is None:
            return show(message, category, filename, lineno, file, line)
        doing, program, error = trouble.groups()
        if doing == "reading":
            for entry in folder.glob(f"{program}-*-cache"):
                with contextlib.suppress(OSError):
                    entry.unlink()
        if not reported:
            reported.append(doing)
            done = "read" if doing == "reading" else "written"
            print(
                f"note: the compiled programs in {folder} cannot all be {done} "
                f"({first_line(error)}): compiling instead",
                file=sys.stderr,
            )
        return None

    warnings.showwarning = show_once
