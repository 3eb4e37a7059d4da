"""What every command needs: how it ends (0, or one line on stderr, never a traceback, for what the user can mend), its cores and its part of a GPU's memory."""

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import DataError, UsageError, printable, shown

USAGE, FAILED, INTERRUPTED = 2, 1, 130
_GPU_MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # jax's present and former one; both together it refuses
_OUT_OF_MEMORY = "out of memory"
_ASK_FOR_LESS = (
    "ask for less: fewer films at once (batch), smaller pictures (size, scale), shorter films, or less history (memory_frames, pool_frames)"
)
_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


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
        _exit(FAILED, f"error: {_OUT_OF_MEMORY}{f' ({error})' if str(error) else ''}: {_ASK_FOR_LESS}")
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _exit(FAILED, f"error: {_DISK[error.errno]}{f' ({error.filename})' if error.filename else ''}: make room and run again")
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
