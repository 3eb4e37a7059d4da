"""Reads adapters for a base: which of its tensors they update, and by what.

lora_keys.py reads the names of an adapter's tensors, lora_scale.py its scale; lora_terms.py merges.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from causalcine_jax.convert import checkpoint_keys, kinds, lora_keys, lora_scale
from causalcine_jax.convert.lora_scale import AdapterScale
from causalcine_jax.convert.lora_terms import Difference, LowRankTerm, Term
from causalcine_jax.convert.tensor_files import TensorFiles
from causalcine_jax.errors import DataError, UsageError


@dataclass(frozen=True)
class Lora:
    """A requested adapter: a file or peft's folder, and its strength (1: as trained)."""

    path: Path
    strength: float = 1.0

    def __str__(self):
        return str(self.path) if self.strength == 1 else f"{self.path}:{self.strength:g}"


_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
Asked = str | os.PathLike | Lora
AskedLoras = Asked | list[Asked] | tuple[Asked, ...] | None


def loras(asked: AskedLoras) -> tuple[Lora, ...]:
    """The values of `--lora`: each FILE or FILE:STRENGTH.

    Raises:
      UsageError: a strength that is not a number, or a file given twice.
    """
    if asked is None:
        return ()
    found = tuple(_lora(each) for each in (asked if isinstance(asked, list | tuple) else [asked]))
    refuse_twice([each.path for each in found])
    return found


def refuse_twice(files: Sequence[Path]) -> None:
    """Raises `UsageError` if one of the adapters' files is there twice, also under another name."""
    counted = collections.Counter(map(os.path.realpath, files))
    if twice := [file for file in files if counted[os.path.realpath(file)] > 1]:
        raise UsageError(
            f"--lora {' and '.join(dict.fromkeys(map(str, twice)))} is given twice: give it once, "
            f"with the strength to use, such as {twice[0]}:0.8"
        )


def _lora(asked: Asked) -> Lora:
    if isinstance(asked, Lora):
        return asked
    text = os.fspath(asked)
    if not text.strip():
        raise UsageError("--lora names no file: give FILE or FILE:STRENGTH")
    path, colon, strength = text.rpartition(":")
    if not colon or os.path.exists(text) or not path:
        return Lora(Path(text))
    try:
        value = float(strength)
    except ValueError:
        if os.path.exists(path):
            raise UsageError(
                f"--lora {text}: its strength {strength!r} is no number; write {path}:0.8"
            ) from None
        return Lora(Path(text))
    if not math.isfinite(value):
        raise UsageError(f"--lora {text}: its strength must be finite")
    return Lora(Path(path), value)


@dataclass(frozen=True)
class Adapter:
    """An adapter ready to merge: the updates of each original key, and its modules' scales."""

    asked: Lora
    terms: Mapping[str, list[Term]]
    scales: list[AdapterScale]

    def __str__(self):
        found = collections.Counter((s.value, s.alpha, s.rslora, s.stated_by) for s in self.scales)
        shown = [
            f"scale {value:g} of {count} weights "
            f"(alpha {alpha:g}, {by}{', rsLoRA' if root else ''})"
            for (value, alpha, root, by), count in found.most_common(3)
        ]
        others = len(found) - len(shown)
        diffs = sum(isinstance(t, Difference) for terms in self.terms.values() for t in terms)
        shown += [f"{others} other scales"] * (others > 0) + [f"{diffs} full differences"] * (
            diffs > 0
        )
        return f"lora {self.asked.path.name}: strength {self.asked.strength:g}, {'; '.join(shown)}"


def adapter(
    asked: Lora,
    tensors: TensorFiles,
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, Callable[[str], str | None]],
    alpha: float | None = None,
) -> Adapter:
    """The adapter in `tensors` for a network of `shapes`, by original key.

    Args:
      names: `to_original` and `to_diffusers` of the network's key table.
      alpha: that of the command line.

    Raises:
      DataError: a half without its other half, unequal ranks, tensors of another kind or network,
        several adapters in one file, or disagreeing sources of alpha; all are listed.
      UsageError: the command line's alpha contradicts the file's.
    """
    file = tensors.files[0]
    found = lora_scale.sources(file, tensors.metadata(), alpha)
    parts = _parts(file, checkpoint_keys.lora_keys(tensors.shapes, file))
    modules = lora_keys.targets(parts, shapes, names)
    terms: dict[str, list[Term]] = collections.defaultdict(list)
    scales: list[AdapterScale] = []
    faults: list[str] = []
    places: list[tuple[str, str]] = []
    for module, sides in parts.items():
        target = modules[module]
        weight = (
            f"{target}.weight" if f"{target}.weight" in shapes or target not in shapes else target
        )
        if {"down", "up"} & set(sides):
            if fault := _low_rank_fault(module, sides, tensors):
                faults.append(fault)
                continue
            down, up = sides["down"], sides["up"]
            scale = _scale(module, target, sides, tensors, found)
            scales.append(scale)
            factor = scale.value * asked.strength
            terms[weight].append(LowRankTerm(tensors, factor, down, up))
            if "up_b" in sides:
                terms[f"{target}.bias"].append(Difference(tensors, factor, sides["up_b"]))
        elif "up_b" in sides or set(sides) == {"alpha"}:
            stray = sides.get("up_b") or sides["alpha"]
            faults.append(f"{stray} belongs to no lora_A and lora_B")
        for side, key in (
            ("diff", weight),
            ("diff_b", f"{target}.bias"),
            ("diff_m", f"{target}.modulation"),
        ):
            if side in sides:
                terms[key].append(Difference(tensors, asked.strength, sides[side]))
        faults += [
            f"{key} is {tensors.dtypes[key]}, and only float weights are merged"
            for side, key in sides.items()
            if side != "alpha" and tensors.dtypes[key] not in _FLOATS
        ]
        places += [(target, side) for side in sides]
    twice = {target for (target, _), count in collections.Counter(places).items() if count > 1}
    faults += [f"{target} is updated twice, under different names" for target in sorted(twice)]
    if faults:
        raise DataError(f"{file} is not a LoRA of a Wan2.1 transformer: {'; '.join(faults[:8])}")
    misfits = [
        f"{key} {term.shape}, the base has {shapes.get(key, 'none')}"
        for key, updates in terms.items()
        for term in updates
        if key not in shapes or not term.fits(shapes[key])
    ]
    if misfits:
        raise DataError(
            f"the LoRA {file} does not belong to this transformer: {'; '.join(misfits[:8])}"
        )
    return Adapter(asked, dict(terms), scales)


def _scale(
    module: str,
    target: str,
    sides: Mapping[str, str],
    tensors: TensorFiles,
    found: list[lora_scale.ScaleSource],
) -> AdapterScale:
    """The scale of a module by its own alpha tensor and the sources that were `found`."""
    own = []
    if "alpha" in sides:
        alpha = _alpha(tensors.files[0], tensors, sides["alpha"])
        own = [lora_scale.ScaleSource(f"{module}.alpha", alpha=alpha)]
    names = [*lora_keys.without_prefixes(module), target]
    scale = lora_scale.scale_of(names, tensors.shapes[sides["down"]][0], [*own, *found])
    by = scale.stated_by.replace(f"{module}.alpha", ".alpha")
    return dataclasses.replace(scale, stated_by=by)


def _parts(file: Path, keys: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Module -> side -> key in the file."""
    parts: dict[str, dict[str, str]] = {}
    adapters, faults, twice = set(), [], []
    for plain, key in keys.items():
        part = lora_keys.parse(plain)
        if part is None:
            faults.append(f"{key} is no lora_A or lora_B")
            continue
        adapters |= {part.adapter} if part.side in ("down", "up") else set()
        if part.side in (sides := parts.setdefault(part.module, {})):
            twice.append(f"{sides[part.side]} and {key} are the same part")
        sides[part.side] = key
    other = lora_keys.other_kind(keys)
    if other is None and len(adapters) > 1 and (twice or len(adapters - {"", "default"}) > 1):
        listed = ", ".join(sorted(name or "one without a name" for name in adapters))
        raise DataError(f"{file} holds several adapters, {listed}: save each in a file of its own")
    faults += twice
    if faults and not other and kinds.kind_of_keys(keys) not in (None, kinds.ADAPTER):
        raise DataError(f"{file} is not a LoRA: {kinds.said_of(keys)}")
    if faults or other or not parts:
        raise DataError(
            f"{file} is not a LoRA of a Wan2.1 transformer: "
            f"{other or '; '.join(faults[:8]) or 'it holds no lora_A and lora_B'}"
        )
    return parts


def _low_rank_fault(module: str, sides: Mapping[str, str], tensors: TensorFiles) -> str | None:
    if not {"down", "up"} <= set(sides):
        return f"{sides.get('down') or sides['up']} has no other half"
    down, up = tensors.shapes[sides["down"]], tensors.shapes[sides["up"]]
    if len(down) < 2 or len(up) < 2 or up[1] != down[0] or math.prod(up[2:]) != 1 or not down[0]:
        return f"{module}: lora_A {down} and lora_B {up} have no common rank"
    return None


def _alpha(file: Path, tensors: TensorFiles, key: str) -> float:
    value = tensors.read(key)
    if (
        value.size != 1
        or not np.isfinite(float(value.reshape(())))
        or float(value.reshape(())) <= 0
    ):
        raise DataError(
            f"{file}: {key} must be one positive number, "
            f"not {value.tolist() if value.size < 4 else value.shape}"
        )
    return float(value.reshape(()))
