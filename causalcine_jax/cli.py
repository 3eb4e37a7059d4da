"""What every command needs: how it ends (0, or one line on stderr, never a traceback, for what the user can mend), its cores and its part of a GPU's memory."""

import argparse
import collections
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Iterable

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import DataError, UsageError, printable, shown

USAGE, FAILED, INTERRUPTED = 2, 1, 130
_GPU_MEMORY_NAMES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
)  # jax's present and former one; both together it refuses
_OUT_OF_MEMORY = "out of memory"
_ASK_FOR_LESS = "ask for less: fewer films at once (batch), smaller pictures (size, scale), shorter films, or less history (memory_frames, pool_frames)"
_GIVEN = "_given"  # what a flag has been given so far, in argparse's namespace while it parses
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
}


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def number(text: str) -> float:
    """The type of every flag that takes a number: none of them means anything with nan or inf."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {shown(text)}")
    return value


def whole_number(text: str) -> int:
    """The type of every flag that counts: what does not fit into 64 bits is a typing error."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {shown(text)}") from None
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"is too large: {shown(text)}")
    return value


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which refuses a flag given twice that takes one value, where argparse keeps the last without a word."""

    def __init__(self, **options):
        super().__init__(**options)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        vars(namespace).pop(_GIVEN, None)
        return namespace, rest


class _StoreOnce(argparse._StoreAction):
    def __call__(self, parser, namespace, values, option_string=None):
        given = vars(namespace).setdefault(_GIVEN, {})
        if option_string is not None and self.dest in given:
            parser.error(
                f"argument {option_string}: given twice, and it takes one value: leave out {given[self.dest]} or {values}"
            )
        given[self.dest] = values
        super().__call__(parser, namespace, values, option_string)


def refuse_repeated(arguments: Iterable[str]) -> None:
    """The same for train.py, whose flags argparse does not read.

    `UsageError` where two of `arguments` are the same flag with a value.
    """
    counted = collections.Counter(
        word.split("=", 1)[0].lstrip("-").replace("-", "_")
        for word in arguments
        if re.match(r"--?[A-Za-z]", word)
    )
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UsageError(
            f"--{twice[0]} is given {counted[twice[0]]} times, and it takes one value: leave out all but one"
        )


def run(main: Callable[[], object]) -> None:
    """Calls `main` and exits the process: 0, 2 for a `UsageError`, 1 for a `DataError`, a full disk or memory, 130 for Ctrl-C.

    Any other exception is a fault of this program and keeps its traceback. jax, which starts its devices in `main`, is given `GPU_MEMORY`
    unless the environment says otherwise.
    """
    if not any(name in os.environ for name in _GPU_MEMORY_NAMES):
        os.environ[_GPU_MEMORY_NAMES[0]] = str(GPU_MEMORY)
    try:
        main()
    except UsageError as error:
        _exit(USAGE, f"error: {error}")
    except DataError as error:
        _exit(FAILED, f"error: {error}")
    except BrokenPipeError:
        # Whoever read our output is gone (`| head`); stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(FAILED, "")
    except MemoryError as error:
        _exit(
            FAILED, f"error: {_OUT_OF_MEMORY}{f' ({error})' if str(error) else ''}: {_ASK_FOR_LESS}"
        )
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _exit(
            FAILED,
            f"error: {_DISK[error.errno]}{f' ({error.filename})' if error.filename else ''}: make room and run again",
        )
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted")
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # jax's, which has no class of its own
            raise
        _exit(FAILED, f"error: {_OUT_OF_MEMORY} ({str(error).splitlines()[0]}): {_ASK_FOR_LESS}")
    sys.exit(0)


def _exit(code: int, message: str) -> None:
    if message:
        # Lines of a list of faults stay lines.
        print("\n".join(map(printable, message.splitlines())), file=sys.stderr)
    sys.exit(code)
