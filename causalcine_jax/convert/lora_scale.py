"""The scale of an adapter: alpha / r, or alpha / sqrt(r) by rsLoRA.

These may state it:

    adapter_config.json   peft's: lora_alpha, r, alpha_pattern, rank_pattern, use_rslora
    the file's header     lora_alpha; Diffusers' lora_adapter_metadata (peft's settings as JSON);
                          kohya's ss_network_alpha, ss_network_dim
    <module>.alpha        a tensor for each module
    --lora-alpha          the command line

Sources that disagree are an error; none takes precedence. Without any, alpha is r and the scale 1.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalcine_jax.convert.metadata import read_settings
from causalcine_jax.errors import DataError, UsageError, is_number, shown

CONFIG = "adapter_config.json"
FLAG = "--lora-alpha"
_ALPHAS, _RANKS = (
    ("lora_alpha", "alpha", "ss_network_alpha"),
    ("r", "rank", "lora_rank", "ss_network_dim"),
)

# Values of peft's init_lora_weights that subtract the adapter's beginning from the base.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_CONVERTED = ("pissa", "olora", "corda")  # by save_pretrained, to adapters of the plain base
# Settings with which an adapter is more than an update of the base's own layers.
_OTHER_LAYERS = (
    "alora_invocation_tokens", "layer_replication", "use_qalora", "modules_to_save", "bias",
)  # fmt: skip
_NO_OTHER_LAYERS: tuple[object, ...] = (None, False, "", "none", [], {})
_ROUNDING = 2.0**-8  # of an alpha tensor in bfloat16
_NO_NUMBER = ("none", "dynamic")  # kohya, where there is no single alpha or rank
_COMMON_WORDS = ("alpha", "rank", "r")  # in a header, may mean something else


@dataclass(frozen=True)
class ScaleSource:
    """Alpha, rank and rsLoRA (division by sqrt(r)) by one source; None where it does not say."""

    name: str
    alpha: float | None = None
    rank: float | None = None
    rslora: bool | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, float] = field(default_factory=dict)

    def of(self, names: Sequence[str]) -> tuple[float | None, float | None]:
        """(alpha, rank) of a module, which patterns may call by any of its `names`.

        A pattern is peft's: a regular expression for the end of the module's path.
        """
        return _by_pattern(self.alpha_pattern, names, self.alpha), _by_pattern(
            self.rank_pattern, names, self.rank
        )


@dataclass(frozen=True)
class AdapterScale:
    """The scale of a module's update, and the sources that stated it."""

    value: float
    alpha: float
    rslora: bool
    stated_by: str


def sources(file: Path, header: Mapping[str, str], flag: float | None) -> list[ScaleSource]:
    """Every source for the adapter in `file`, except its tensors.

    Raises:
      DataError: adapter_config.json or the header is invalid, or describes another kind of adapter.
      UsageError: the flag is not a positive number.
    """
    found = [_peft(CONFIG, beside, read_settings(beside)) for beside in settings_files(file)]
    found.append(_header(file, header))
    if packed := header.get("lora_adapter_metadata"):
        try:
            settings = json.loads(packed)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file}: its lora_adapter_metadata is not JSON ({error}); save the adapter again"
            ) from error
        if not isinstance(settings, dict):
            raise DataError(
                f"{file}: its lora_adapter_metadata must be a JSON object; save the adapter again"
            )
        settings = {name.removeprefix("transformer."): value for name, value in settings.items()}
        found.append(_peft("lora_adapter_metadata", file, settings))
    if flag is not None:
        if not is_number(flag) or flag <= 0:
            raise UsageError(f"{FLAG} must be a positive number, not {flag}")
        found.append(ScaleSource(FLAG, alpha=flag))
    return found


def settings_files(file: Path) -> list[Path]:
    """The adapter_config.json beside the adapter in `file`, if there is one."""
    beside = file.parent / CONFIG
    return [beside] if beside.is_file() else []


def scale_of(names: Sequence[str], rank: int, found: list[ScaleSource]) -> AdapterScale:
    """The scale of a module of `rank` on which all sources agree.

    Args:
      names: of the module: in the adapter's naming, as its trainer's patterns have it; last in
        that of the base, for messages.

    Raises:
      UsageError or DataError: they disagree; names each source and its value.
    """
    module = names[-1]
    alphas: dict[str, float] = {}
    for source in found:
        alpha, stated_rank = source.of(names)
        if stated_rank is not None and stated_rank != rank:
            raise DataError(
                f"{source.name} says rank {stated_rank:g} for {module}, whose tensors have {rank}: "
                "take the file that belongs to it"
            )
        if alpha is not None:
            alphas[source.name] = alpha
    root = {source.name: source.rslora for source in found if source.rslora is not None}
    for what, stated in (("alpha", alphas), ("use_rslora", root)):
        if stated and not _agree(stated.values()):
            listed = ", ".join(
                f"{name} says {value if what != 'alpha' else f'{value:g}'}"
                for name, value in stated.items()
            )
            fault = UsageError if FLAG in stated else DataError
            raise fault(
                f"{what} of {module} is stated differently: {listed}; leave out {FLAG}, "
                "or correct the wrong file"
            )
    rslora = any(root.values())
    alpha = next(iter(alphas.values()), float(rank))
    by = " and ".join(alphas) or "stated nowhere, so its rank"
    return AdapterScale(alpha / (math.sqrt(rank) if rslora else rank), alpha, rslora, by)


def _agree(values: Iterable[float]) -> bool:
    """Whether values are equal, but for the rounding of alpha tensors."""
    least, most = min(values := list(values)), max(values)
    return most - least <= _ROUNDING * most


def _peft(name: str, file: Path, settings: Mapping[str, Any]) -> ScaleSource:
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        raise DataError(
            f"{file} is of {'DoRA' if kind == 'LORA' else kind}, and only LoRA is merged: "
            "merge it with peft's merge_and_unload"
        )
    if settings.get("fan_in_fan_out"):
        raise DataError(
            f"{file} says fan_in_fan_out, which no layer of Wan2.1 has: "
            "the adapter is of another network"
        )
    begun = settings.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGED_BASE):
        raise DataError(
            f"{file} says init_lora_weights {shown(begun)}: it was trained on a changed base, "
            "and would be wrong on this one. "
            + (
                "Save it by peft's save_pretrained with path_initial_model_for_weight_conversion"
                if begun.lower().startswith(_CONVERTED)
                else "Train it on the plain base"
            )
        )
    if unknown := [name for name in _OTHER_LAYERS if settings.get(name) not in _NO_OTHER_LAYERS]:
        raise DataError(
            f"{file} says {unknown[0]} {shown(settings[unknown[0]])}, which is not merged here: "
            "merge it with peft's merge_and_unload, or train without it"
        )
    root = settings.get("use_rslora")
    if root is not None and not isinstance(root, bool):
        raise DataError(f"{file}: use_rslora must be true or false, not {root!r}")
    return ScaleSource(
        name,
        _number(file, "lora_alpha", settings.get("lora_alpha")),
        _number(file, "r", settings.get("r")),
        root,
        _pattern(file, "alpha_pattern", settings.get("alpha_pattern")),
        _pattern(file, "rank_pattern", settings.get("rank_pattern")),
    )


def _header(file: Path, header: Mapping[str, str]) -> ScaleSource:
    stated: dict[str, float] = {}
    for what, names in (("alpha", _ALPHAS), ("rank", _RANKS)):
        for name in names:
            value = _number(file, name, _float(file, name, header.get(name)))
            if value is not None and stated.setdefault(what, value) != value:
                raise DataError(
                    f"the header of {file} states {what} twice, {stated[what]:g} and {value:g}: "
                    "save the adapter again"
                )
    root = {"true": True, "false": False}.get(str(header.get("use_rslora")).lower())
    return ScaleSource("the file's header", stated.get("alpha"), stated.get("rank"), root)


def _float(file: Path, name: str, text: str | None) -> float | None:
    """A number of the header; None where there is none. Common words may mean something else."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        if name in _COMMON_WORDS or text.strip().lower().startswith(_NO_NUMBER):
            return None
        raise DataError(
            f"{file}: {name} in its header must be a number, not {shown(text)}: "
            "save the adapter again"
        ) from None


def _number(file: Path, name: str, value: Any) -> float | None:
    return None if value is None else _positive(file, name, value)


def _positive(file: Path, name: str, value: Any) -> float:
    if not is_number(value) or value <= 0:
        raise DataError(f"{file}: {name} must be a positive number, not {shown(value)}")
    return value


def _pattern(file: Path, name: str, value: Any) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{file}: {name} must map modules to numbers, not {value!r}")
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise DataError(
                f"{file}: {name} has {pattern!r}, which is no regular expression ({error})"
            ) from error
    return {
        pattern: _positive(file, f"{name}[{pattern!r}]", number)
        for pattern, number in value.items()
    }


def _by_pattern(
    patterns: Mapping[str, float], names: Sequence[str], otherwise: float | None
) -> float | None:
    return next(
        (
            value
            for pattern, value in patterns.items()
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
        ),
        otherwise,
    )
