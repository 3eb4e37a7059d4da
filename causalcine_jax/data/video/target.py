"""What films must be to be trained on: the model's size, chunks, VAE and tokenizer."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.clock import CHUNK_FRAMES, first_frame_of_chunk
from causalcine_jax.convert import load_tokenizer
from causalcine_jax.convert.find import find_part, holds
from causalcine_jax.convert.formats import open_part
from causalcine_jax.data.encode import tokenizer_hash, vae_hash
from causalcine_jax.data.video.config import PrepareConfig, part_text
from causalcine_jax.data.video.encode import model_vae
from causalcine_jax.errors import DataError, UsageError, raise_faults
from causalcine_jax.film.model_folder import model_defaults, transformer_sizes
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.scorers.sources import weights_hash
from causalcine_jax.story_schema import nearest_multiples, size_faults
from causalcine_jax.utils.atomic_file import file_hash, write_json

WAN_TEXT_LEN, WAN_PATCH = 512, 2  # of a model folder without a transformer


@dataclass(frozen=True)
class Target:
    """The films' sizes, and what makes their latents and token ids.

    height, width  in pixels
    shorter        latent frames of shorter films, of what is left of a run of shots
    vae, vae_hash  of the latents
    """

    height: int
    width: int
    latent_frames: int
    chunk_frames: int
    text_len: int
    tokenizer: Tokenizer
    vae: VAEConfig
    vae_hash: str
    shorter: tuple[int, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Chunks of the films, from the longest to the shortest."""
        return [frames // self.chunk_frames for frames in (self.latent_frames, *self.shorter)]

    @property
    def shortest_shot(self) -> int:
        """Video frames of a window's first chunk, the shortest."""
        return first_frame_of_chunk(1, self.chunk_frames)

    @property
    def latents(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        stride = self.vae.spatial_stride
        return self.height // stride, self.width // stride, self.vae.z_dim


def target_of(config: PrepareConfig) -> Target:
    """Reads it from the model's folder.

    Raises:
      UsageError: the size or the length does not fit the model.
      DataError: the model lacks a part, or it is damaged.
    """
    find_part(config.model, "vae")  # a folder that is not there would say no size either
    defaults = model_defaults(config.model)
    text_len, patch = WAN_TEXT_LEN, WAN_PATCH
    if holds(config.model, "transformer"):
        with open_part(config.model, "transformer") as tensors:
            sizes = transformer_sizes(tensors)
        text_len, patch = sizes.text_len, max(sizes.patch_size[1:])
    video = defaults.get("video")
    size = config.size or (video.size if video is not None and video.height else None)
    if size is None:
        raise UsageError(f"{config.model} does not say its films' size: name it with --size")
    chunk_frames = defaults.get("chunk_frames", CHUNK_FRAMES)
    vae = model_vae(config.model)
    step = vae.cfg.spatial_stride * patch
    faults = size_faults(size[0], size[1], (step, step))
    for frames in config.lengths:
        if frames % chunk_frames:
            near = nearest_multiples(frames, chunk_frames)
            faults.append(f"latent_frames must be a multiple of {chunk_frames} (nearest: {near})")
    raise_faults("prepare", faults)
    return Target(
        size[0],
        size[1],
        config.latent_frames,
        chunk_frames,
        config.text_len or text_len,
        load_tokenizer(config.model),
        vae.cfg,
        vae_hash(vae),
        config.shorter,
    )


def settings(config: PrepareConfig, target: Target) -> dict[str, Any]:
    """What the films of a store depend on, beside the videos and their captions."""
    weights = config.detector_weights
    return {
        "size": f"{target.width}x{target.height}",
        "latent_frames": target.latent_frames,
        "shorter": [*target.shorter] or None,
        "text_len": target.text_len,
        "vae": target.vae_hash,
        "tokenizer": tokenizer_hash(target.tokenizer),
        "detector": config.detector,
        "detector_weights": file_hash(weights) if weights else None,
        "held_out": config.held_out,
        "source_from": config.source_from,
        "part": part_text(config.part),
        "duplicates_weights": embedder_text(config),
        **dataclasses.asdict(config.filters),
        **({} if config.duplicates_weights else {"duplicate_cosine": None}),  # is not used
    }


def embedder_text(config: PrepareConfig) -> str | None:
    """The network that embeds shots and the hash of its weights; None without one."""
    if config.duplicates_weights is None:
        return None
    name, weights = config.duplicates_weights
    return f"{name} {weights_hash(weights)}"


def check_settings(file: Path, now: dict[str, Any], overwrite: bool) -> None:
    """Records the settings in `file`. `UsageError` if it holds others, unless `overwrite`."""
    if file.exists() and not overwrite:
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            raise_faults(
                f"{file.parent} was made with other settings, choose another --out or --overwrite",
                [
                    f"{name} was {before.get(name)}, is {value}"
                    for name, value in now.items()
                    if before.get(name) != value
                ],
            )
        except (OSError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(f"{file} cannot be read ({error}): delete it") from None
    write_json(file, now)
