"""Errors that a user can mend: one message that names the fault and the fix, no traceback.

launch/*.py turns a `UsageError` into exit code 2 and a `DataError` into exit code 1, each as one line on stderr.
"""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """What was asked for cannot be done as asked: a bad flag, config, story or caption."""


class DataError(RuntimeError):
    """What was asked for is fine, but a file, record or device failed: missing, corrupt, full."""


def raise_faults(what: str, faults: Iterable[str]) -> None:
    """Raises one `UsageError` that lists every fault found in `what`; returns if there is none."""
    faults = list(faults)
    if faults:
        raise UsageError(f"{what}: " + "; ".join(faults))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'caption'?" for an unknown `name`, or the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
