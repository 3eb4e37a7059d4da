"""Names of an adapter's tensors in the conventions of its trainers: the target weight and the part.

    peft         base_model.model.<module>.lora_A.weight, or with an adapter's name:
                 lora_A.<name>.weight; with lora_bias also lora_B.bias
    ComfyUI      diffusion_model.<module>.lora_down.weight, .lora_up.weight, .alpha, .diff, .diff_b
    LightX2V     <module>.diff_m, of the module's modulation
    kohya        lora_unet_<module, its dots written _>.lora_down.weight
    DiffSynth    pipe.dit.<module>.lora_A.default.weight
    Diffusers    transformer.<module in Diffusers' names>.lora_A.weight, or .lora.down.weight

`down` is A [r, in], `up` is B [out, r], `up_b` its bias; `diff`, `diff_b` and `diff_m` are full
differences of a weight, a bias and a modulation.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_LOW_RANK = re.compile(
    r"(.+?)[._](lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.([^.]+))?\.weight"
)
_UP_BIAS = re.compile(r"(.+?)[._](?:lora_B|lora_up)(?:\.([^.]+))?\.bias")
_FULL = re.compile(r"(.+)\.(diff|diff_b|diff_m)")
_SIDES = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
}
_PREFIXES = (
    "base_model.model.", "pipe.dit.", "diffusion_model.", "transformer.", "dit.", "model.",
    "generator.", "module.", "net.",
)  # fmt: skip
_FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")  # kohya, OneTrainer, LyCORIS
# Adapters of other kinds, and tensors of other networks: reported by name, never skipped.
_OTHERS = (
    (
        r".*(dora_scale|lora_magnitude_vector).*",
        "is of DoRA, whose magnitudes are not merged here: merge it with its trainer's own tool",
    ),
    (
        r".*\.(hada_|lokr_|lora_mid|oft_|glora|set_weight|w_norm).*",
        "is LyCORIS of another kind than LoRA: merge it with LyCORIS's own tool",
    ),
    (
        r"lora_te\d*_.*|text_encoder\..*lora.*",
        "is an update of a text encoder, which is not merged here: "
        "train or save the adapter without it",
    ),
)


@dataclass(frozen=True)
class AdapterKey:
    """One tensor of an adapter.

    module   the module that it updates, in the adapter's naming
    side     down, up, up_b, diff, diff_b, diff_m or alpha
    adapter  its name in the file, if any
    """

    module: str
    side: str
    adapter: str = ""


def parse(key: str) -> AdapterKey | None:
    """Parses a plain key of an adapter's file; None if it is no part of a LoRA."""
    if match := _LOW_RANK.fullmatch(key):
        return AdapterKey(match[1], _SIDES[match[2]], match[3] or "")
    if match := _UP_BIAS.fullmatch(key):
        return AdapterKey(match[1], "up_b", match[2] or "")
    if match := _FULL.fullmatch(key):
        return AdapterKey(match[1], match[2])
    return AdapterKey(key.removesuffix(".alpha"), "alpha") if key.endswith(".alpha") else None


def is_adapter_key(key: str) -> bool:
    return parse(key) is not None or any(re.fullmatch(pattern, key) for pattern, _ in _OTHERS)


def other_kind(keys: Iterable[str]) -> str | None:
    """A message about the first key of another known kind of adapter, or None."""
    return next(
        (
            f"{key} {what}"
            for key in keys
            for pattern, what in _OTHERS
            if re.fullmatch(pattern, key)
        ),
        None,
    )


def targets(
    modules: Iterable[str], weights: Iterable[str], names: Mapping[str, Callable[[str], str | None]]
) -> dict[str, str]:
    """Module in an adapter's naming -> module under original keys.

    Modules that the network lacks keep their name.

    Args:
      weights: original keys of the network's tensors.
      names: `to_original` and `to_diffusers` of its key table.
    """
    weights = list(weights)
    flat = {_flat(key): key for key in weights}
    flat |= {_flat(other): key for key in weights if (other := names["to_diffusers"](key))}
    modules_there = {key.removesuffix(".weight").removesuffix(".bias") for key in weights}
    found = {}
    for module in modules:
        plain = without_prefixes(module)[-1]
        if prefix := next((p for p in _FLAT if module.startswith(p)), None):
            plain = flat.get(module.removeprefix(prefix).lstrip("_"), plain).removesuffix(".weight")
        elif plain not in modules_there:
            key = names["to_original"](f"{plain}.weight") or names["to_original"](plain)
            plain = key.removesuffix(".weight") if key else plain
        found[module] = plain
    return found


def without_prefixes(module: str) -> list[str]:
    """The name of a module, and what is left of it as each trainer's prefix is removed."""
    names = [module]
    while prefix := next((p for p in _PREFIXES if names[-1].startswith(p)), None):
        names.append(names[-1].removeprefix(prefix))
    return names


def _flat(key: str) -> str:
    return key.removesuffix(".weight").replace(".", "_")
