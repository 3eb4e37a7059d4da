"""A model folder, whole: the networks that make a film, and what they make it with by default.

metadata.json beside the networks may say `video` {fps, width, height}, `sampler` and `memory`: the sizes and choices that the
model was trained for. A story or a flag overrides them.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import load_metadata, load_text_encoder, load_transformer, load_vae
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.tokenizer import Tokenizer
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE
from causalcine_jax.story import Video

EMBEDDED = Path(__file__).parents[1] / "weights" / "storyworld"
PARTS = ("transformer", "vae", "text_encoder")


@dataclass(frozen=True)
class Model:
    """Three networks, their tokenizer, and how they are used unless something else is asked for."""

    transformer: Transformer
    vae: VAE
    text_encoder: UMT5Encoder
    tokenizer: Tokenizer
    video: Video = Video(16, 160, 96)
    sampler: SamplerConfig = SamplerConfig()
    memory: MemoryConfig = MemoryConfig()
    folder: Path | None = None

    def defaults(self) -> dict[str, Any]:
        """What metadata.json has to say for these defaults to come back."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in ("video", "sampler", "memory")}


def load_model(folder: str | Path | None = None, dtype="float32") -> Model:
    """The model in `folder`, or the embedded one.

    Raises:
      DataError: the folder is missing or incomplete, a file in it is damaged, or metadata.json says what cannot be.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    _check_parts(folder)
    return Model(
        load_transformer(folder, dtype),
        load_vae(folder, dtype),
        load_text_encoder(folder, dtype),
        Tokenizer.load(folder / "text_encoder"),
        folder=folder,
        **_defaults(folder),
    )


def _check_parts(folder: Path) -> None:
    missing = [f"{part}/" for part in PARTS if not (folder / part).is_dir()]
    if not missing:
        return
    if folder == EMBEDDED:
        raise DataError(
            f"this installation has no embedded weights ({folder} lacks {', '.join(missing)}): install the released package, or train "
            "a model with `python launch/train.py --config configs/base.py` and pass its folder as --model"
        )
    raise DataError(f"{folder} is not a model folder: it lacks {', '.join(missing)}")


def _defaults(folder: Path) -> dict[str, Any]:
    said = load_metadata(folder)
    kinds = {"video": Video, "sampler": SamplerConfig, "memory": MemoryConfig}
    try:
        return {name: kind(**said[name]) for name, kind in kinds.items() if name in said}
    except (TypeError, UsageError) as error:
        raise DataError(f"{folder / 'metadata.json'}: {error}") from error
