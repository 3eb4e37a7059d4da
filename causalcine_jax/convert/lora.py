"""A low-rank adapter merged into its base while that is read: W + (alpha / r) B A, in float32, in the base's dtype.

LongLive and MemFlow publish a base and a lora.pt of peft's names: `base_model.model.<key>.lora_A.weight` [r, in] and
`lora_B` [out, r]. Their alpha equals r; a file that tells another one does so in tensors `<key>.alpha`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from causalcine_jax.errors import DataError

_NAME = re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight")
_SIDE = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


@dataclass(frozen=True)
class Adapter:
    """One weight's update: `down` [r, in] and `up` [out, r] are keys of the adapter's file."""

    down: str
    up: str
    scale: float


def adapters(
    tensors, names: Mapping[str, str], to_original: Callable[[str], str | None], alpha: float | None, what: str
) -> dict[str, Adapter]:
    """The adapter of each original weight key.

    Args:
      tensors: of the adapter's file (a `TensorFiles`).
      names: stripped key -> key in `tensors`.
      to_original: the original key of a Diffusers key, for adapters that use those names.
      alpha: for adapters whose file tells none; None for alpha = r.
      what: the file, for messages.

    Raises:
      DataError: a half without its other half, ranks that differ, tensors of another kind; all are listed.
    """
    halves: dict[str, dict[str, str]] = {}
    told_by: dict[str, str | None] = {}
    faults = []
    for name, key in names.items():
        match = _NAME.fullmatch(name)
        if match:
            target = match[1].removeprefix("base_model.model.").removeprefix("model.").removeprefix("transformer.")
            target = to_original(f"{target}.weight") or f"{target}.weight"
            halves.setdefault(target, {})[_SIDE[match[2]]] = key
            told_by[target] = names.get(f"{match[1]}.alpha")
        elif not name.endswith(".alpha"):
            faults.append(f"{key} is no lora_A or lora_B")
    found = {}
    for target, sides in halves.items():
        if len(sides) != 2:
            faults.append(f"{next(iter(sides.values()))} has no other half")
            continue
        down, up = tensors.shapes[sides["down"]], tensors.shapes[sides["up"]]
        if len(down) != 2 or len(up) != 2 or up[1] != down[0]:
            faults.append(f"{target}: lora_A {down} and lora_B {up} have no common rank")
            continue
        rank = down[0]
        told = told_by[target]
        strength = float(tensors.read(told).item()) if told else rank if alpha is None else alpha
        found[target] = Adapter(sides["down"], sides["up"], strength / rank)
    if faults or not found:
        raise DataError(f"{what} is not a LoRA of a Wan2.1 transformer: {'; '.join(faults[:8] or ['it holds no lora_A and lora_B'])}")
    return found


def merged(base: np.ndarray, index: tuple[slice, ...], adapter: Adapter, tensors) -> np.ndarray:
    """`base`, which is `index` of a weight [out, in], with the adapter's update."""
    rows, columns = index
    down = tensors.read_slice(adapter.down, (slice(None), columns)).astype(np.float32)
    up = tensors.read_slice(adapter.up, (rows, slice(None))).astype(np.float32)
    return (base.astype(np.float32) + adapter.scale * (up @ down)).astype(base.dtype)
