"""The model of a memory plan, as shapes: a preset, a public family, or a model on disk."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.config import DTYPES, MemoryConfig
from causalcine_jax.convert import abstract_network, orbax_copy
from causalcine_jax.convert.find import PARTS, holds
from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.families import FAMILIES
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.presets import PRESETS
from causalcine_jax.story import Video

NETWORKS = {"transformer": Transformer, "vae": VAE, "text_encoder": UMT5Encoder}


@dataclass(frozen=True)
class PlannedModel:
    """The shapes of a model's networks, by part, and the settings that it is used with."""

    networks: dict[str, Any]
    video: Video
    guidance: float
    memory: MemoryConfig = MemoryConfig()
    chunk_frames: int = CHUNK_FRAMES
    dtype: str = "bfloat16"


def planned_model(name: str) -> PlannedModel:
    """The model called `name`: a preset, a family, or a path in any format that convert reads.

    Raises:
      UsageError: no such name or path.
      DataError: the path has no transformer, or is damaged.
    """
    return _named(name) or _on_disk(name)


def _named(name: str) -> PlannedModel | None:
    if name not in PRESETS and name not in FAMILIES:
        return None
    known = FAMILIES.get(name)
    preset = known.preset if known else PRESETS[name]
    configs = {
        "transformer": preset.transformer,
        "vae": preset.vae,
        "text_encoder": preset.text_encoder,
    }
    networks = {part: _shapes(part, config) for part, config in configs.items()}
    if known:
        return PlannedModel(
            networks, known.video, known.sampler.guidance, known.memory, known.chunk_frames
        )
    return PlannedModel(networks, Video(16, preset.width, preset.height), preset.guidance)


def _on_disk(name: str) -> PlannedModel:
    path = Path(name)
    if not path.exists():
        raise UsageError(
            f"{name!r} is no preset, no family, and no file or folder: "
            f"{nearest(name, [*PRESETS, *FAMILIES])}"
        )
    networks = {}
    for part in PARTS:
        if orbax_copy.find(path, part) is not None or holds(path, part):
            _, networks[part] = abstract_network(path, part)
    if "transformer" not in networks:
        raise DataError(f"{path} has no transformer: a plan needs at least that")
    defaults, wan = model_defaults(path), FAMILIES["wan2.1-t2v-14b"]
    sampler = defaults.get("sampler", wan.sampler)
    choices: dict[str, Any] = {
        key: defaults[key] for key in ("memory", "chunk_frames") if key in defaults
    }
    choices["dtype"] = defaults.get("dtype", DTYPES[0])
    video = defaults.get("video", wan.video)
    if None in (video.width, video.height):
        video = replace(wan.video, fps=video.fps)
    return PlannedModel(networks, video, sampler.guidance, **choices)


def _shapes(part: str, config):
    return jax.eval_shape(lambda: NETWORKS[part](config, key=jax.random.key(0)))
