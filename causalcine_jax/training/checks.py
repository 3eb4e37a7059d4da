"""Faults of a config's values, in the words that its user reads."""

import dataclasses
import math
from collections.abc import Iterable

from causalcine_jax.errors import nearest

_ARTICLES = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


def choice_faults(name: str, value, known: Iterable[str]) -> list[str]:
    """`value` must be one of `known`."""
    return [] if value in known else [f"unknown {name} {value!r}, {nearest(str(value), known)}"]


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
        and math.isfinite(value)
    ):
        return []
    bounds = f"more than {low}" if open_low else f"at least {low}"
    bounds += "" if high == math.inf else f" and {'less than' if open_high else 'at most'} {high}"
    return [f"{name} must be {bounds}, not {value}"]


def type_faults(config, prefix: str = "") -> Iterable[str]:
    """Fields of a dataclass, and of those in it, whose value is not of the annotated type (int passes for float)."""
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if dataclasses.is_dataclass(f.type):
            if not isinstance(value, f.type):
                yield f"{name} must be a {f.type.__name__}, not {value!r}"
            else:
                yield from type_faults(value, f"{name}.")
        elif f.type in (int, float, str, bool):
            allowed = (int, float) if f.type is float else (f.type,)
            if not isinstance(value, allowed) or (isinstance(value, bool) and f.type is not bool):
                yield f"{name} must be {_ARTICLES[f.type]}, not {value!r}"
