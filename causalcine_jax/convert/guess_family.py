"""Guesses which public family a checkpoint belongs to, from its file and folder names."""

import fnmatch
import json
import re
from pathlib import Path

from causalcine_jax.families import FAMILIES, Family
from causalcine_jax.network_sizes import TransformerConfig

_PLAIN_PIPELINE = "WanPipeline"
# Few-step models with Wan2.1 in their names, which need samplers of their own: FastWan, Lightx2v,
# TurboWan (TurboDiffusion), rCM, SFWan and others.
_DISTILLED = re.compile(
    r"fast[-_.]?wan|light[-_.]?x2v|turbo|(?<![a-z])rcm(?![a-z])|sfwan|self[-_.]?forcing"
    r"|causal(?!cine)|caus[-_.]?vid|distil|dmd|(?<![a-z])lcm(?![a-z])|acc[-_.]?vid"
    r"|(?<![\d.])(?:[1-9]|one|two|three|four|six|eight|few)[-_.]?steps?"
)
_BILLIONS = {"wan-1.3b": "1.3b", "wan-14b": "14b"}
_SIZES = re.compile(r"(?<![\d.])(?:1[._]3b|14b|5b)(?![a-z])")
_PUBLISHED_DIMS = {1536, 3072, 5120}  # of Wan2.1 1.3B, Wan2.2 5B and 14B


def guess(path: str | Path, sizes: TransformerConfig | None = None) -> Family | None:
    """The family that the names of `path` identify; None if they match none or several.

    Reads the name of `path`, of its two parent folders, and of the files in it. A name does not
    count if it states another size than the family's. Nor does it count for plain Wan2.1 if it
    states another pipeline or a distillation.

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
            for name, each in FAMILIES.items()
            for candidate in candidates
            if _matches(candidate, each) and _has_size(each, sizes)
        }
        if found:
            return FAMILIES[found.pop()] if len(found) == 1 else None
    return None


def _matches(path: Path, each: Family) -> bool:
    name = "/".join(path.parts[-3:]).lower()
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in each.files):
        return False
    stated = {size.replace("_", ".") for size in _SIZES.findall(name)}
    return not (each.name.startswith("wan2.1") and _DISTILLED.search(name)) and (
        not stated or _BILLIONS[each.size] in stated
    )


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
        index = json.loads((path / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return index.get("_class_name") if isinstance(index, dict) else None
