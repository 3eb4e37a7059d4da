"""Errors that a user can mend: one message that names the fault and the fix, no traceback.

A command ends with exit code 2 for a `UsageError` and 1 for a `DataError`, each as one line on stderr (cli.run).

What users give may be anything: a value of megabytes, a list that holds itself, a caption that moves the cursor. Messages show values by `shown`
and text by `printable`, so they stay short and reach a terminal as plain characters.
"""

import difflib
import reprlib
from collections.abc import Iterable

MOST_FAULTS = 20  # listed in one message
LONGEST_VALUE = 80  # characters of a value in a message
LONGEST_NAME = (
    100  # characters of a name that is compared with the known ones; longer ones resemble none
)


class UsageError(ValueError):
    """What was asked for cannot be done as asked: a bad flag, config, story or caption."""


class DataError(RuntimeError):
    """What was asked for is fine, but a file, record or device failed: missing, corrupt, full."""


def raise_faults(what: str, faults: Iterable[str]) -> None:
    """Raises one `UsageError` that lists the faults found in `what`, the first MOST_FAULTS of them; returns if there is none."""
    faults = list(faults)
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        raise UsageError(printable(f"{what}: " + "; ".join([*faults[:MOST_FAULTS], *more])))


def printable(text: str) -> str:
    """`text` with what a terminal would obey, or could not show, as escapes: \\x1b for ESC, \\n for a line's end."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """A value from a file or a flag as a message shows it: on one line, at most LONGEST_VALUE characters, whatever it holds."""
    text = printable(_SHORT.repr(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'caption'?" for an unknown `name`, or the list of what is known."""
    known = list(known)
    close = closest(name, known)
    return f"did you mean '{close}'?" if close else f"known: {', '.join(sorted(known))}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that resembles `name` most; None if none does."""
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
    return close[0] if close else None


class _Short(reprlib.Repr):
    """Looks at a few items of a few levels only."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, LONGEST_VALUE, LONGEST_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 3

    def repr_int(self, value: int, level: int) -> str:
        digits = value.bit_length() * 30103 // 100000
        return (
            repr(value) if digits < LONGEST_VALUE else f"a number of about {digits} digits"
        )  # Python refuses to write those of thousands

    def repr_bytes(self, value: bytes, level: int) -> str:
        return f"{len(value)} bytes"


_SHORT = _Short()
