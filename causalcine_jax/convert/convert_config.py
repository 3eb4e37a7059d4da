"""What `causalcine convert` is asked for."""

from dataclasses import dataclass
from pathlib import Path

from causalcine_jax import families
from causalcine_jax.convert.lora import AskedLoras, loras
from causalcine_jax.errors import UsageError, check_choice, raise_faults, range_faults

TARGETS = ("model", "diffusers", "orbax")
MOST_SHARD_GB = 10**6
TARGET_DTYPES = {"keep": None, "bf16": "BF16", "fp32": "F32"}


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert and how; the fields are the flags of `causalcine convert`."""

    source: Path
    out: Path
    to: str = "model"
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    lora: AskedLoras = None
    lora_alpha: float | None = None
    weights: str = "auto"
    dtype: str = "keep"
    family: str | None = None
    shard_gb: float = 5.0
    dry_run: bool = False
    progress: bool = True

    def __post_init__(self):
        check_choice("target", self.to, TARGETS)
        check_choice("dtype", self.dtype, TARGET_DTYPES)
        raise_faults(
            "convert", range_faults("--shard-gb", self.shard_gb, 0, MOST_SHARD_GB, open_low=True)
        )
        asked = loras(self.lora)
        if self.lora_alpha is not None and len(asked) != 1:
            raise UsageError(
                f"--lora-alpha goes with one --lora, not {len(asked)}: with several, each file "
                "states its own alpha, or give strengths (FILE:0.8)"
            )
        if self.family is not None:
            families.family(self.family)  # raises UsageError for an unknown name
