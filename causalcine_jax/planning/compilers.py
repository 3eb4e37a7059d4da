"""The compilers for hardware that is not here: how they are installed, and how they fail.

A failure is one `DataError`: the program, the first cause, and what to install. jax looks for a
compiler's libraries while it traces, so tracing is part of compiling here.
"""

import contextlib
import importlib.util
import logging
import re
from collections.abc import Iterator
from importlib import metadata

from causalcine_jax.errors import DataError, UsageError, first_line

# platform -> module, distribution, command
INSTALL = {
    "tpu": ("libtpu", "libtpu", "pip install 'causalcine-jax[tpu]'"),
    "gpu": ("jax_plugins.xla_cuda13", "jax-cuda13-plugin", "pip install 'causalcine-jax[cuda13]'"),
}
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
# jax logs a plugin's failure there, with a traceback, and goes on without the plugin.
_PLUGINS_LOG = "jax._src.xla_bridge"


def check_installed(platform: str, what: str) -> None:
    """Raises a `UsageError` with the install command if the compiler for `what` is not there."""
    module, _, install = INSTALL[platform]
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
    with _plugin_faults() as logged:
        try:
            yield
        except DataError:
            raise
        except RuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                raise
            told = logged[0].exc_info if logged else None
            cause = told[1] if told else error
            logged.clear()
            raise DataError(
                f"the compiler for {what} fails at {at}: {first_line(cause).rstrip('.')}; "
                f"{_fix(platform)}"
            ) from error


def _fix(platform: str) -> str:
    _, plugin, install = INSTALL[platform]
    if missing := _missing(plugin):
        return f"not installed here: {', '.join(missing)}; {install} installs all it needs"
    return (
        f"all that it needs is installed ({install}), so this is a bug in the compiler or in "
        "causalcine"
    )


def _missing(plugin: str) -> list[str]:
    """The distributions that are not here of `plugin` and those that it asks for, extras too."""
    try:
        asked = metadata.requires(plugin) or []
    except metadata.PackageNotFoundError:
        return [plugin]
    names = [name[0] for one in asked if (name := re.match(r"[\w.-]+", one))]
    return [name for name in names if not any(metadata.distributions(name=name))]


@contextlib.contextmanager
def _plugin_faults() -> Iterator[list[logging.LogRecord]]:
    """The failures that jax would log inside. Those still in the list at the end are logged."""
    log, kept = logging.getLogger(_PLUGINS_LOG), []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info:
            kept.append(record)
        return not record.exc_info

    log.addFilter(keep)
    try:
        yield kept
    finally:
        log.removeFilter(keep)
        for record in kept:
            log.handle(record)
