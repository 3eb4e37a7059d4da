"""What every command needs: how it ends (0, or one line on stderr, never a traceback, for what the user can mend), its cores and its part of a GPU's memory."""

import errno
import os
import sys
from collections.abc import Callable

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import DataError, UsageError

USAGE, FAILED, INTERRUPTED = 2, 1, 130
_GPU_MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # jax's present and former one; both together it refuses
_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def run(main: Callable[[], object]) -> None:
    """Calls `main` and exits the process: 0, 2 for a `UsageError`, 1 for a `DataError` or a full disk, 130 for Ctrl-C.

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
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _exit(FAILED, f"error: {_DISK[error.errno]}{f' ({error.filename})' if error.filename else ''}: make room and run again")
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted")
    sys.exit(0)


def _exit(code: int, message: str) -> None:
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)
