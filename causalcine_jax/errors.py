"""Errors that a user can fix: one message that names the fault and the fix, without traceback.

launch/*.py turns a `UsageError` into exit code 2 and a `DataError` into exit code 1, each as one
line on stderr.

User input may be anything: a value of megabytes, a list that contains itself, a caption with
terminal escapes. Messages show values through `shown` and text through `printable`, so they stay
short and print as plain characters.
"""

import contextlib
import difflib
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

MOST_FAULTS = 20  # listed in one message
LONGEST_VALUE = 80  # characters of a value in a message
LONGEST_LINE = 200  # characters of a library's message in ours
LONGEST_NAME = 100  # characters of a name compared with the known ones; longer ones match none


class UsageError(ValueError):
    """The request cannot be done as given: a bad flag, config, story or caption."""


class DataError(RuntimeError):
    """The request is fine, but a file, record or device failed: missing, corrupt, full."""


class StoppedEarly(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the work; what was made is kept. The message says where."""


@contextlib.contextmanager
def kept_when_stopped(kept: str | Callable[[], str]) -> Iterator[None]:
    """Turns a KeyboardInterrupt inside into a `StoppedEarly` that says what is kept.

    An empty text means that nothing is kept: then it stays what it is.
    """
    try:
        yield
    except StoppedEarly:
        raise
    except KeyboardInterrupt:
        if text := kept if isinstance(kept, str) else kept():
            raise StoppedEarly(text) from None
        raise


@contextlib.contextmanager
def disk_faults(what: str, then: str = "") -> Iterator[None]:
    """Turns an OSError inside into a `DataError`: `what` failed, the system's reason, `then`.

    `what` is such as "cannot write film.mp4", `then` such as "; run again to continue".
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{what}: {error.strerror or error}{then}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether jax says so: it has no class of its own for it."""
    return str(error).startswith("RESOURCE_EXHAUSTED")


def raise_faults(what: str, faults: Iterable[str]) -> None:
    """Raises one `UsageError` that lists the first MOST_FAULTS faults of `what`, if any."""
    if faults := list(faults):
        raise UsageError(printable(f"{what}: {listed(faults)}"))


def listed(faults: Sequence[str], by: str = "; ") -> str:
    """The first MOST_FAULTS of them, and how many more there are."""
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return by.join([*faults[:MOST_FAULTS], *more])


def choice_faults(name: str, value, known: Iterable[str]) -> list[str]:
    """`value` must be one of `known`."""
    known = tuple(known)  # a dict would raise for what cannot be hashed
    return [] if value in known else [f"unknown {name} {value!r}, {nearest(str(value), known)}"]


def part_faults(part: tuple[int, int]) -> list[str]:
    """`part` (K, N) must be the K-th of N parts."""
    number, count = part
    there = 1 <= number <= count
    return [] if there else [f"--part {number}/{count}: there are parts 1 to {count}"]


def check_choice(name: str, value, known: Iterable[str]) -> None:
    """Raises a `UsageError` if `value` is none of `known`."""
    for fault in choice_faults(name, value, known):
        raise UsageError(fault)


def range_faults(
    name: str,
    value,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> list[str]:
    """`value` must be finite and in low..high."""
    if (
        (low < value if open_low else low <= value)
        and (value < high if open_high else value <= high)
        and (isinstance(value, int) or math.isfinite(value))
    ):
        return []
    bounds = f"more than {low}" if open_low else f"at least {low}"
    bounds += "" if high == math.inf else f" and {'less than' if open_high else 'at most'} {high}"
    return [f"{name} must be {bounds}, not {shown(value)}"]


def is_number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold, and no bool.

    By bounds: math.isfinite raises for integers beyond those of a float, which JSON may hold.
    """
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -sys.float_info.max <= value <= sys.float_info.max
    )


def least_faults(config: object, names: Iterable[str], least: int, prefix: str = "") -> list[str]:
    """These fields of a config must be finite and at least `least`."""
    return [
        fault
        for name in names
        for fault in range_faults(prefix + name, getattr(config, name), least)
    ]


def printable(text: str) -> str:
    """`text` with control and unprintable characters escaped: \\x1b for ESC, \\n for a line end."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """A user's value for a message: one line of at most LONGEST_VALUE characters."""
    text = printable(_SHORT.repr(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def counted(number: int, what: str) -> str:
    """A count of things: "1 shot", "2 shots"."""
    return f"{number} {what}{'s' * (number != 1)}"


def first_line(error: object) -> str:
    """The first line of an error, or of its text: XLA's continue with tables of its memory."""
    lines = map(str.strip, str(error).splitlines())
    return next(filter(None, lines), "no reason given")


def one_line(error: object) -> str:
    """An error's lines as one of at most LONGEST_LINE characters."""
    return " ".join(str(error).split())[:LONGEST_LINE]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: "did you mean 'caption'?", or the list of known names."""
    known = list(known)
    close = closest(name, known)
    return f"did you mean '{close}'?" if close else f"known: {', '.join(sorted(known))}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that resembles `name` most; None if none does."""
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
    return close[0] if close else None


class _Short(reprlib.Repr):
    """A repr of bounded size: a few items of a few levels."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, LONGEST_VALUE, LONGEST_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 3

    def repr_int(self, value: int, level: int) -> str:
        digits = value.bit_length() * 30103 // 100000
        # Python refuses to print integers of thousands of digits.
        return repr(value) if digits < LONGEST_VALUE else f"a number of about {digits} digits"

    def repr_bytes(self, value: bytes, level: int) -> str:
        return f"{len(value)} bytes"


_SHORT = _Short()
