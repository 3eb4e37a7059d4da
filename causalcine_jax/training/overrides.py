"""Another value for some fields of a config dataclass, from nested plain data.

flags.py reads the command line into such data; one error lists all faults.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from causalcine_jax.errors import UsageError, nearest, raise_faults


def replaced(config, changes: Mapping[str, Any], prefix: str = ""):
    """`config` with `changes`, nested as the dataclasses are: {"optim": {"lr": 3e-5}}.

    Every dataclass is made once, with all its changes, so that values may depend on each other.

    Raises:
      UsageError: unknown fields (each with its nearest match) and the faults of every part.
    """
    faults, values = [], {}
    known = {f.name: f.type for f in dataclasses.fields(config)}
    for name, value in changes.items():
        kind = known.get(name)
        if kind is None:
            faults.append(f"unknown key {prefix}{name}, {nearest(name, known)}")
        elif dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            try:
                values[name] = replaced(getattr(config, name), value, f"{prefix}{name}.")
            except UsageError as error:
                faults.append(str(error).removeprefix("config: "))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        config = dataclasses.replace(config, **values)
    except UsageError as error:
        faults.append(str(error).removeprefix("config: "))
    except TypeError as error:
        faults.append(f"{prefix.rstrip('.') or 'config'}: {error}")
    raise_faults("config", faults)
    return config


def with_out(config, out: str):
    """`config` with `out` in place of {out} in all texts, at every depth."""
    values = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, str):
            values[f.name] = value.replace("{out}", out)
        elif dataclasses.is_dataclass(value):
            values[f.name] = with_out(value, out)
    return dataclasses.replace(config, **values)
