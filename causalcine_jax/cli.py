"""What every command shares: exit codes, types of flags, CPU cores and GPU memory.

A command exits with 0, or prints one line on stderr. Errors that users can fix have no traceback.
"""

import argparse
import collections
import contextlib
import errno
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import (
    DataError,
    StoppedEarly,
    UsageError,
    closest,
    first_line,
    is_out_of_memory,
    printable,
    shown,
)
from causalcine_jax.utils.compiler import tune_compiler
from causalcine_jax.utils.interrupts import terminable
from causalcine_jax.utils.streams import flush_stdout, lasting_stderr

# Exit codes. STOPPED is EX_TEMPFAIL: not finished, and what was made is kept. A stop that keeps
# nothing is 128 + the signal's number, as in shells.
FINISHED, FAILED, USAGE, STOPPED = 0, 1, 2, 75
# jax's current and former name; jax refuses both together.
_GPU_MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_OUT_OF_MEMORY = "out of memory"
_ASK_FOR_LESS = (
    "ask for less: fewer films at once (batch), smaller pictures (size, scale), shorter films, "
    "or less history (memory_frames, pool_frames)"
)
_GIVEN = "_given"  # in argparse's namespace during parsing: the flags seen so far, with values
DISK_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
}
# Faults of a path that a user gave.
PATH_FAULTS = {
    errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.ENOTDIR,
    errno.ELOOP,
}  # fmt: skip


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def number(text: str) -> float:
    """The type of every flag that takes a number; refuses nan and inf."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {shown(text)}")
    return value


def whole_number(text: str) -> int:
    """The type of every flag that takes an integer; refuses more than 64 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {shown(text)}") from None
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"is too large: {shown(text)}")
    return value


def lengths(text: str) -> tuple[int, ...]:
    """The type of every flag that takes whole numbers, joined by commas."""
    return tuple(map(whole_number, text.split(",")))


def path(text: str) -> Path:
    """The type of every flag that takes a path: `ArgumentParser` puts it in place of Path.

    It refuses an empty text, which Path would read as the current folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, not nothing: . is the current folder")
    return Path(text)


def pixel_size(text: str) -> tuple[int, int]:
    """The type of every flag that takes WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"must be WIDTHxHEIGHT in pixels, such as 832x480, not {shown(text)}"
        )
    return int(match[1]), int(match[2])


def part(text: str) -> tuple[int, int]:
    """The type of every flag that takes K/N: the K-th of N parts."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be K/N, such as 1/8, not {shown(text)}")
    return int(match[1]), int(match[2])


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, with descriptions as they are written and every error in one line.

    A single-value flag given twice is an error: argparse would keep the last value silently. For an
    unknown flag the error names the nearest.
    """

    def __init__(self, **options):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.register("type", Path, path)
        # argparse takes -1e3 and -inf for flags, and then misses the value of the one before.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf$|nan$)", re.IGNORECASE)

    def parse_args(self, args=None, namespace=None):
        namespace, rest = self.parse_known_args(args, namespace)
        self.refuse(rest)
        return namespace

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        vars(namespace).pop(_GIVEN, None)
        return namespace, rest

    def refuse(self, rest: list[str]) -> None:
        """Ends the command where words of the command line were not understood."""
        if not rest:
            return
        flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
        if not flags:
            self.error(f"unexpected {shown(' '.join(rest))}: see {self.prog} --help")
        close = closest(flags[0], self._option_string_actions)
        hint = f"did you mean {close}?" if close else f"{self.prog} --help lists the flags"
        self.error(f"unknown flag {flags[0]}, {hint}")

    def refuse_set(self, namespace: argparse.Namespace, dests: Iterable[str], why: str) -> None:
        """`UsageError` naming the flags of `dests` that differ from their defaults, and why not."""
        names = [
            action.option_strings[0]
            for action in self._actions
            if action.dest in dests and getattr(namespace, action.dest) != action.default
        ]
        if names:
            raise UsageError(f"{', '.join(names)} {why}")

    def error(self, message: str) -> NoReturn:
        _exit(USAGE, f"error: {' '.join(message.split())}")


def _is_given(path: object) -> bool:
    """Whether a path lies in one that the command line names: a fault of any other is ours."""
    words = [word.rpartition("=")[2] for word in sys.argv[1:]]
    return any(word and str(path).startswith(word) for word in words)


class _StoreOnce(argparse._StoreAction):
    def __call__(self, parser, namespace, values, option_string=None):
        given = vars(namespace).setdefault(_GIVEN, {})
        if option_string is not None and self.dest in given:
            parser.error(
                f"argument {option_string}: given twice, and it takes one value: "
                f"leave out {given[self.dest]} or {values}"
            )
        given[self.dest] = values
        super().__call__(parser, namespace, values, option_string)


def refuse_repeated(arguments: Iterable[str]) -> None:
    """Raises `UsageError` if a flag appears twice in `arguments`; for commands without argparse."""
    counted = collections.Counter(
        word.split("=", 1)[0].lstrip("-").replace("-", "_")
        for word in arguments
        if re.match(r"--?[A-Za-z]", word)
    )
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UsageError(
            f"--{twice[0]} is given {counted[twice[0]]} times, and it takes one value: "
            "leave out all but one"
        )


def run(main: Callable[[], object]) -> None:
    """Calls `main`, then exits the process.

    Exit codes: 0; 2 for a `UsageError`; 1 for a `DataError`, a full disk, a path that cannot be
    opened or full memory; 75 for a `StoppedEarly`; 130 for Ctrl-C and 143 for SIGTERM where nothing
    is kept, both of which raise KeyboardInterrupt in `main`. Any other exception is a bug of this
    program and keeps its traceback.

    jax starts its devices inside `main`. It may use the fraction `GPU_MEMORY` of a GPU's memory,
    unless the environment sets another. XLA's settings are those of utils/compiler.py.
    """
    tune_compiler()
    _print_any_text()
    if not any(name in os.environ for name in _GPU_MEMORY_NAMES):
        os.environ[_GPU_MEMORY_NAMES[0]] = str(GPU_MEMORY)
    with lasting_stderr():
        _ended(main)


def _ended(main: Callable[[], object]) -> NoReturn:
    """`run`, once jax and the streams are set up."""
    try:
        with terminable(), _written():
            main()
    except UsageError as error:
        _exit(USAGE, f"error: {error}")
    except DataError as error:
        _exit(FAILED, f"error: {error}")
    except BrokenPipeError:
        _exit(FAILED, "")  # the reader of our output has gone (`| head`)
    except MemoryError as error:
        _exit(
            FAILED, f"error: {_OUT_OF_MEMORY}{f' ({error})' if str(error) else ''}: {_ASK_FOR_LESS}"
        )
    except OSError as error:
        if error.errno in PATH_FAULTS and _is_given(error.filename):
            _exit(FAILED, f"error: {shown(str(error.filename))}: {error.strerror}")
        if error.errno not in DISK_FAULTS:
            raise
        _exit(
            FAILED,
            f"error: {DISK_FAULTS[error.errno]}{f' ({error.filename})' if error.filename else ''}: "
            "make room and run again",
        )
    except StoppedEarly as stopped:
        _exit(STOPPED, str(stopped))
    except KeyboardInterrupt as stopped:
        number = stopped.args[0] if stopped.args else signal.SIGINT
        _exit(128 + number, "interrupted")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _exit(FAILED, f"error: {_OUT_OF_MEMORY} ({first_line(error)}): {_ASK_FOR_LESS}")
    sys.exit(FINISHED)


def _print_any_text() -> None:
    """Escapes what stdout's encoding lacks, as stderr does: names of files may hold any bytes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Writes all output before the end, where a full disk or a closed pipe is still handled."""
    try:
        yield
    except SystemExit:  # argparse's --help
        flush_stdout()
        raise
    flush_stdout()


def _exit(code: int, message: str) -> NoReturn:
    with contextlib.suppress(OSError):
        flush_stdout()
    if message:
        # Escape each line on its own: a list of faults has several.
        print("\n".join(map(printable, message.splitlines())), file=sys.stderr)
    sys.exit(code)
