"""Merges adapters into their base while it is read: W + strength (alpha / r) B A.

The sum is in float32, over all adapters, then cast to the base's dtype. lora_keys.py reads the
names of an adapter's tensors, lora_scale.py its scale.
"""

import collections
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from causalcine_jax.convert import checkpoint_keys, lora_keys, lora_scale
from causalcine_jax.convert.lora_scale import AdapterScale
from causalcine_jax.convert.tensor_files import TensorFiles
from causalcine_jax.errors import DataError, UsageError


@dataclass(frozen=True)
class Lora:
    """A requested adapter: a file or peft's folder, and its strength (1: as trained)."""

    path: Path
    strength: float = 1.0

    def __str__(self):
        return str(self.path) if self.strength == 1 else f"{self.path}:{self.strength:g}"


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
    counted = collections.Counter(os.path.abspath(each.path) for each in found)
    if twice := [path for path, count in counted.items() if count > 1]:
        raise UsageError(
            f"--lora {twice[0]} is given twice: give it once, with the strength to use, "
            f"such as {twice[0]}:0.8"
        )
    return found


def _lora(asked: Asked) -> Lora:
    if isinstance(asked, Lora):
        return asked
    text = os.fspath(asked)
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
class Difference:
    """An update of one tensor, scale * diff; `diff` is a key of the adapter's `tensors`."""

    tensors: TensorFiles
    scale: float
    diff: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors.shapes[self.diff]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the shapes agree, but for axes of length 1: of a Conv3d's kernel, for example."""
        sides = [tuple(size for size in each if size != 1) for each in (self.shape, shape)]
        return sides[0] == sides[1]

    def read(self, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
        """The slice `index` of the update of a tensor of `shape`; float32."""
        return self.scale * self.tensors.read(self.diff).reshape(shape)[index].astype(np.float32)


@dataclass(frozen=True)
class LowRankTerm:
    """An update of one tensor, scale * up @ down; both are keys of the adapter's `tensors`."""

    tensors: TensorFiles
    scale: float
    down: str
    up: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.tensors.shapes[self.up][0], *self.tensors.shapes[self.down][1:])

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape == shape

    def read(self, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
        """As `Difference.read`."""
        if len(shape) == 2:
            rows, columns = (*index, slice(None), slice(None))[:2]
            down = self.tensors.read_slice(self.down, (slice(None), columns)).astype(np.float32)
            return self.scale * (
                self.tensors.read_slice(self.up, (rows, slice(None))).astype(np.float32) @ down
            )
        up, down = (self.tensors.read(key).astype(np.float32) for key in (self.up, self.down))
        return (
            self.scale
            * (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(shape)[index]
        )


Term = Difference | LowRankTerm


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
    keys = checkpoint_keys.lora_keys(tensors.shapes, file)
    parts = _parts(file, keys)
    modules = lora_keys.targets(parts, shapes, names)
    found = lora_scale.sources(file, tensors.metadata(), alpha)
    terms: dict[str, list[Term]] = collections.defaultdict(list)
    scales, faults = [], []
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
            own = (
                [
                    lora_scale.ScaleSource(
                        f"{module}.alpha", alpha=_alpha(file, tensors, sides["alpha"])
                    )
                ]
                if "alpha" in sides
                else []
            )
            scale = lora_scale.scale_of(target, tensors.shapes[down][0], [*own, *found])
            scales.append(
                scale
                if not own
                else AdapterScale(
                    scale.value,
                    scale.alpha,
                    scale.rslora,
                    scale.stated_by.replace(own[0].name, ".alpha"),
                )
            )
            terms[weight].append(LowRankTerm(tensors, scale.value * asked.strength, down, up))
        for side, key in (("diff", weight), ("diff_b", f"{target}.bias")):
            if side in sides:
                terms[key].append(Difference(tensors, asked.strength, sides[side]))
        if set(sides) == {"alpha"}:
            faults.append(f"{sides['alpha']} belongs to no lora_A and lora_B")
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


def merged(
    base: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...], terms: list[Term]
) -> np.ndarray:
    """The slice `base` at `index` of a tensor of `shape`, plus the sum of all updates."""
    total = base.astype(np.float32)
    for term in terms:
        total = total + term.read(index, shape)
    return total.astype(base.dtype)


def _parts(file: Path, keys: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Module -> side -> key in the file."""
    parts: dict[str, dict[str, str]] = {}
    adapters, faults = set(), []
    for plain, key in keys.items():
        part = lora_keys.parse(plain)
        if part is None:
            faults.append(f"{key} is no lora_A or lora_B")
            continue
        adapters |= {part.adapter} if part.side in ("down", "up") else set()
        if part.side in (sides := parts.setdefault(part.module, {})) and len(adapters) < 2:
            faults.append(f"{sides[part.side]} and {key} are the same part")
        sides[part.side] = key
    other = lora_keys.other_kind(keys)
    if other is None and len(adapters - {"", "default"}) > 1:
        raise DataError(
            f"{file} holds several adapters, {', '.join(sorted(adapters))}: "
            "save each in a file of its own"
        )
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
