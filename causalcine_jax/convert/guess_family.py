"""Guesses which public family a checkpoint belongs to, from its file and folder names."""

import fnmatch
import re
from pathlib import Path

from causalcine_jax.convert.metadata import read_json
from causalcine_jax.errors import DataError
from causalcine_jax.families import FAMILIES, Family
from causalcine_jax.network_sizes import TransformerConfig

_PLAIN_PIPELINE = "WanPipeline"
# Few-step models with Wan2.1 in their names, which need samplers of their own: FastWan, Lightx2v,
# TurboWan (TurboDiffusion), rCM, SFWan and others.
_DISTILLED = re.compile(
    r"fast[-_.]?wan|light[-_.]?x2v|turbo|(?<![a-z])rcm(?![a-z])|sfwan|self[-_.]?forcing"
    r"|causal(?!cine)|caus[-_.]?vid|distil|dmd|(?<![a-z])[lpst]cm(?![a-z])|acc[-_.]?vid|consistency"
    r"|lightning|hyper|flash|fusioni?x|nfe|real[-_.]?time|krea|rolling|infinity|longlive|memflow"
    r"|shot[-_.]?stream|fastvideo"
    r"|(?<![\d.])(?:[1-9]|one|two|three|four|six|eight|few)[-_.]?steps?"
)
# Files beside few-step models, in folders with their names, that are none.
_NO_FEW_STEPS = re.compile(r"bidirectional|(?<![a-z])ode(?![a-z])|ar_diffusion|teacher|lora")
_BASES = "wan_models"  # where the causal models' repositories keep Wan2.1's own folders
_BILLIONS = {"wan-1.3b": "1.3b", "wan-14b": "14b"}
_SIZES = re.compile(r"(?<![\d.])(?:1[._]3b|14b|5b)(?![a-z])")
_PUBLISHED_DIMS = {1536, 3072, 5120}  # of Wan2.1 1.3B, Wan2.2 5B and 14B


def guess(path: str | Path, sizes: TransformerConfig | None = None) -> Family | None:
    """The family that the names of `path` identify; None if they match none or several.

    Reads the name of `path`, of its two parent folders, and of the files in it; the nearest name
    that identifies a family decides. A name does not count if it states another size than the
    family's. Nor does it count for plain Wan2.1 if it states another pipeline or a distillation.

    Args:
      sizes: the transformer's, if known; a model of another published size is of another family.
    """
    path = Path(path).absolute()
    if _pipeline(path) not in (None, _PLAIN_PIPELINE):
        return None
    inside = [
        file
        for folder in (path, path / "models", path / "checkpoints")
        if folder.is_dir()
        for file in folder.glob("*.*")
    ]
    for candidates in ([path], inside):
        found = {
            name
            for candidate in candidates
            for name in _named(candidate)
            if _has_size(FAMILIES[name], sizes)
        }
        if found:
            return FAMILIES[found.pop()] if len(found) == 1 else None
    return None


def _named(path: Path) -> set[str]:
    """The families that the nearest of the names in `path` identifies."""
    parts = [part.lower() for part in path.parts[-3:]]
    if _BASES in parts:
        parts = parts[parts.index(_BASES) + 1 :]
    whole = "/".join(parts)
    stated = {size.replace("_", ".") for size in _SIZES.findall(whole)}
    for count in range(1, len(parts) + 1):
        found = {
            name
            for name, each in FAMILIES.items()
            if any(fnmatch.fnmatchcase("/".join(parts[-count:]), file) for file in each.files)
        }
        if found:
            by_folder = not any(
                fnmatch.fnmatchcase("/".join(parts[-2:]), file)
                for name in found
                for file in FAMILIES[name].files
                if "/" in file
            )
            refused = _DISTILLED.search(whole)
            other = count > 1 and by_folder and _NO_FEW_STEPS.search("/".join(parts[-count:]))
            return {
                name
                for name in found
                if not (refused if name.startswith("wan2.1") else other)
                and (not stated or _BILLIONS[FAMILIES[name].size] in stated)
            }
    return set()


def _has_size(each: Family, sizes: TransformerConfig | None) -> bool:
    """Whether `sizes` has the family's size, or no published one."""
    return (
        sizes is None
        or sizes.dim == each.preset.transformer.dim
        or sizes.dim not in _PUBLISHED_DIMS
    )


def _pipeline(path: Path) -> str | None:
    """The pipeline that Diffusers' model_index.json names.

    FastVideo's few-step ones are WanDMDPipeline and WanCausalDMDPipeline.
    """
    try:
        index = read_json(path / "model_index.json")
    except DataError:
        return None
    return index.get("_class_name") if isinstance(index, dict) else None
