"""The compilers for hardware that is not here: how they are installed, and how they fail.

jax looks for a compiler's libraries while it traces, so tracing is part of compiling here.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

from causalcine_jax.errors import DataError, UsageError, first_line

# platform -> module, command
INSTALL = {
    "tpu": ("libtpu", "pip install 'causalcine-jax[tpu]'"),
    "gpu": ("jax_plugins.xla_cuda13", "pip install 'causalcine-jax[cuda13]'"),
}
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def check_installed(platform: str, what: str) -> None:
    """Raises a `UsageError` with the install command if the compiler for `what` is not there."""
    module, install = INSTALL[platform]
    if not installed(platform):
        raise UsageError(
            f"compiling for {what} needs {module.split('.')[0]}, which is not installed "
            f"here: {install}"
        )


def installed(platform: str) -> bool:
    try:
        return importlib.util.find_spec(INSTALL[platform][0]) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def clear_faults(platform: str, what: str, at: str) -> Iterator[None]:
    """Turns a failure of the compiler inside into one `DataError`.

    Too little memory passes as it is: it is an answer.

    Args:
      what: the hardware that is compiled for.
      at: the program that is compiled.
    """
    try:
        yield
    except DataError:
        raise
    except RuntimeError as error:
        if OUT_OF_MEMORY in str(error):
            raise
        raise DataError(
            f"the compiler for {what} fails at {at}: {first_line(error).rstrip('.')}; "
            f"{INSTALL[platform][1]} installs all that it needs; if that is done, this is a bug "
            "in the compiler or in causalcine"
        ) from error
