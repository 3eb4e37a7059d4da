"""What is read of a film.json. People edit these files, so the type of every field is checked."""

import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from causalcine_jax.config import DTYPES, KV_DTYPES, POOL_PLACES, MemoryConfig
from causalcine_jax.errors import UsageError, is_number, nearest, raise_faults, shown
from causalcine_jax.story_schema import LARGEST_SIDE

if typing.TYPE_CHECKING:  # importing it imports jax, which can wait until there is a film.json
    from causalcine_jax.diffusion.solvers import SamplerConfig

SCHEMA = "causalcine/film@1"
MOST_FRAMES = 10**9  # latent frames; twelve years of film
NEEDED = ("story", "sampler", "memory", "pool_frames", "weights_sha256")


def _count(most: int) -> tuple[Callable[[Any], bool], str]:
    fits = lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    )
    return fits, f"a whole number from 1 to {most}"


def _kind(kind: type, name: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, kind), name


def _one_of(*known: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}"


_TEXT, _TABLE = _kind(str, "text"), _kind(dict, "a mapping")
# The fields read from a film.json, with their types. `Story.from_dict` checks the story. Other
# fields (timings, retrieved, ...) are not read.
FIELDS = {
    "sampler": _TABLE,
    "memory": _TABLE,
    "pool_frames": _count(MOST_FRAMES),
    "pool_asked": _kind(bool, "true or false"),
    "chunk_frames": _count(MOST_FRAMES),
    "scale": _count(LARGEST_SIDE),
    "whole_film": _kind(bool, "true or false"),
    "kv_dtype": _one_of(*KV_DTYPES),
    "pool_on": _one_of(*POOL_PLACES),
    "dtype": _one_of(*DTYPES),
    "model": _TEXT,
    "weights_sha256": _TEXT,
    "frames_sha256": _TEXT,
    "start": _TABLE,
    "tiny_decoder": _TABLE,
    "loras": (
        lambda value: isinstance(value, list) and all(map(_is_lora, value)),
        "a list of {file, strength, sha256}",
    ),
}
PARTS = {
    "start": ("file", "caption", "sha256"),
    "tiny_decoder": ("file", "sha256"),
}  # texts that these mappings need


@dataclass(frozen=True)
class FilmRecord:
    """What is read of a film.json; None where it does not say.

    pool_asked     whether the user chose pool_frames; earlier film.json do not say
    whole_film     all frames were made at once; chunk_frames are then the film's
    start          {file, caption, sha256, chunks} of the picture or clip that it goes on from
    tiny_decoder   {file, sha256} of the decoder in the VAE's place
    loras          {file, strength, sha256} of each merged adapter
    frames_sha256  of its frames, to tell whether another film is the same
    """

    sampler: "SamplerConfig | None" = None
    memory: MemoryConfig | None = None
    pool_frames: int | None = None
    pool_asked: bool = False
    kv_dtype: str = "same"
    pool_on: str = "device"
    chunk_frames: int | None = None
    whole_film: bool = False
    dtype: str | None = None
    scale: int | None = None
    model: str | None = None
    weights_sha256: str | None = None
    frames_sha256: str | None = None
    start: dict[str, Any] | None = None
    tiny_decoder: dict[str, Any] | None = None
    loras: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(
        cls, data: Any, what: str = "film.json", needed: tuple[str, ...] = ()
    ) -> "FilmRecord":
        """The record in plain data; what is not read (timings, retrieved, ...) is left out.

        Raises:
          UsageError: `data` is no mapping. Or lists every field that is missing or of another type,
            and unknown settings.
        """
        from causalcine_jax.diffusion.solvers import SamplerConfig

        if not isinstance(data, dict):
            raise UsageError(f"{what}: the record must be a mapping, not {shown(data)}")
        lacking = [f"this film.json lacks '{key}'" for key in needed if key not in data]
        raise_faults(what, lacking + type_faults(data))
        kinds = {"sampler": SamplerConfig, "memory": MemoryConfig}
        faults = [field_faults(kind, data[n], n) for n, kind in kinds.items() if n in data]
        raise_faults(what, [fault for each in faults for fault in each])
        read = {name: data[name] for name in FIELDS if name in data}
        read |= {name: kind(**data[name]) for name, kind in kinds.items() if name in data}
        return cls(**{**read, "loras": tuple(read.get("loras", ()))})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def type_faults(data: dict[str, Any]) -> list[str]:
    """The fields of another type than a film.json has."""
    faults = []
    for name, (fits, what) in FIELDS.items():
        if name in data and not fits(data[name]):
            faults.append(f"{name} must be {what}, not {shown(data[name])}")
    for name, keys in PARTS.items():
        if isinstance(part := data.get(name), dict):
            faults += [
                f"{name}: {key} must be text, not {shown(part.get(key))}"
                for key in keys
                if not isinstance(part.get(key), str)
            ]
    fits, what = _count(MOST_FRAMES)
    if isinstance(start := data.get("start"), dict) and not fits(start.get("chunks")):
        faults.append(f"start: chunks must be {what}, not {shown(start.get('chunks'))}")
    return faults


def _is_lora(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("file"), str)
        and _is(value.get("strength"), float)
        and isinstance(value.get("sha256"), str)
    )


def field_faults(kind: type, data: Any, what: str) -> list[str]:
    """Why `data` is invalid for the dataclass `kind`: unknown names, wrong types, NaN, infinity."""
    if not isinstance(data, dict):
        return [f"{what} must be a mapping, not {shown(data)}"]
    types_of = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    faults = [
        f"{what}: unknown key {shown(name)}, {nearest(str(name), known)}"
        for name in data
        if name not in known
    ]
    for name in known:
        if name in data and not _is(data[name], types_of[name]):
            faults.append(
                f"{what}: {name} must be {_named(types_of[name])}, not {shown(data[name])}"
            )
    return faults


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_is(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        first, last = typing.get_args(kind)[0], typing.get_args(kind)[-1]
        return (
            isinstance(value, list | tuple)
            and all(_is(item, first) for item in value)
            and (last is Ellipsis or len(value) == len(typing.get_args(kind)))
        )
    if kind is float:
        return is_number(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _plural(kind: Any) -> str:
    name = _named(kind)
    return name if kind is str else f"{name.removeprefix('a ')}s"


def _named(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_named(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        many = "" if items[-1] is Ellipsis else f"{len(items)} "
        return f"a list of {many}{_plural(items[0])}"
    return {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        Path: "a path",
        types.NoneType: "nothing",
    }[kind]
