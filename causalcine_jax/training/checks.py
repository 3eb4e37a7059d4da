"""Faults of the types of a config's values, as its user reads them."""

import dataclasses
import math
from collections.abc import Iterable

from causalcine_jax.errors import shown

KINDS = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


def type_faults(config, prefix: str = "") -> Iterable[str]:
    """Fields of a dataclass, and of those in it, of another type, not finite, or over 64 bits.

    An int passes for a float. nan and inf would pass every comparison with a limit, or fail it
    silently.
    """
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            if not isinstance(value, f.type):
                yield f"{name} must be a {f.type.__name__}, not {shown(value)}"
            else:
                yield from type_faults(value, f"{name}.")
        elif f.type in KINDS and not is_a(value, f.type):
            yield f"{name} must be {KINDS[f.type]}, not {shown(value)}"
        elif any(isinstance(each, int) and abs(each) >= 2**63 for each in _values(value)):
            yield f"{name} is too large: {shown(value)}"
        elif any(isinstance(each, float) and not math.isfinite(each) for each in _values(value)):
            yield f"{name} must be finite, not {shown(value)}"


def is_a(value, kind: type) -> bool:
    """Whether `value` may stand in a field of type `kind`, one of KINDS."""
    allowed = (int, float) if kind is float else (kind,)
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


def _values(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)
