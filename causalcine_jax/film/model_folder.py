"""A model folder, whole: the networks that make a film, and what they make it with by default.

metadata.json beside the networks may say `video` {fps, width, height}, `sampler`, `memory`, `chunk_frames`, `negative` and `dtype`: the sizes
and choices that the model was trained for. A folder without one, such as Wan2.1's own, is used as the family that its name tells
(families.py). A story or a flag overrides either. `base` there names the model that this one was distilled from.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from causalcine_jax import families
from causalcine_jax.config import DTYPES, MemoryConfig, VAEConfig
from causalcine_jax.convert import (
    guess_family,
    load_metadata,
    load_text_encoder,
    load_tiny_decoder,
    load_tokenizer,
    load_transformer,
    load_vae,
    orbax_copy,
)
from causalcine_jax.convert.describe import describe
from causalcine_jax.convert.find import holds
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.lora import Asked
from causalcine_jax.convert.metadata import base_of
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, raise_faults
from causalcine_jax.film.chosen_model import EMBEDDED, default_model
from causalcine_jax.film.embeddings import PromptEmbeddings, embed, embed_prompts, encoder_hash
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.float8 import outside_blocks, quantize_blocks
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.story import Story, Video
from causalcine_jax.story_schema import CHUNK_FRAMES, nearest_multiples

PARTS = ("transformer", "vae", "text_encoder")


@dataclass(frozen=True)
class Model:
    """Three networks, their tokenizer, and how they are used unless something else is asked for.

    text_encoder, tokenizer   None where `embeddings` take their place
    chunk_frames              latent frames that are made at once
    negative                  what guidance steers away from where a story says nothing
    dtype                     of the networks
    tiny_decoder              decodes in the VAE's place where there is one
    """

    transformer: Transformer
    vae: VAE
    text_encoder: UMT5Encoder | None
    tokenizer: Tokenizer | None
    video: Video = Video(16, 160, 96)
    sampler: SamplerConfig = SamplerConfig()
    memory: MemoryConfig = MemoryConfig()
    chunk_frames: int = CHUNK_FRAMES
    negative: str = ""
    dtype: str = "float32"
    folder: Path | None = None
    embeddings: PromptEmbeddings | None = None
    tiny_decoder: TinyDecoder | None = None

    @property
    def decoder(self) -> VAE | TinyDecoder:
        """What turns latents into frames."""
        return self.tiny_decoder or self.vae

    def defaults(self) -> dict[str, Any]:
        """What metadata.json has to say for these defaults to come back."""
        nested = {
            name: dataclasses.asdict(getattr(self, name)) for name in ("video", "sampler", "memory")
        }
        return nested | {
            name: getattr(self, name) for name in ("chunk_frames", "negative", "dtype")
        }

    def check_prompts(self, prompts, story: Story | None = None) -> None:
        """Raises a `UsageError` listing every prompt of `story` that cannot be read. `prompts`: (where it stands, its text)."""
        text_len = self.transformer.config.text_len
        if self.embeddings is not None:
            self.embeddings.check(prompts, text_len)
        else:
            check_prompts(prompts, self.tokenizer, text_len, story)

    def embed(self, prompt: str) -> Float[Array, "1 t c"]:
        """One prompt's embedding, zero beyond its tokens; computed, or read from `embeddings`."""
        text_len = self.transformer.config.text_len
        if self.embeddings is not None:
            return jnp.asarray(self.embeddings.padded(prompt, text_len))
        return embed(self.text_encoder, self.tokenizer, prompt, text_len)


def latent_size(model: Model, height: int, width: int) -> tuple[int, int]:
    """Height and width of latent frames of `height` x `width` pixels.

    Raises:
      UsageError: the model cannot make that size; names the nearest legal ones.
    """
    stride, (_, rows, columns) = model.vae.cfg.spatial_stride, model.transformer.config.patch_size
    sides = (("height", height, stride * rows), ("width", width, stride * columns))
    raise_faults(
        f"frames of {width}x{height} pixels",
        [
            f"{side} must be a multiple of {step} (nearest: {nearest_multiples(size, step)})"
            for side, size, step in sides
            if size % step
        ],
    )
    return height // stride, width // stride


def load_model(
    folder: str | Path | None = None,
    dtype: str | None = None,
    *,
    embeddings: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
    lora: Asked | Sequence[Asked] | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """The model in `folder`, or the embedded one: the few-step student where this installation has it, else the base model.

    Args:
      folder: anything that holds all three networks: a model folder, Wan2.1's own folder, Diffusers'; or a distilled model's transformer,
        whose metadata.json names the base that the other two are read from (convert/metadata.py).
      dtype: float32, bfloat16 or float8; by default the one that metadata.json says, else float32.
      embeddings: a file of prompt embeddings; the text encoder is then not loaded, and may be missing.
      tiny_decoder: TAEHV's file for Wan2.1, which then decodes in the VAE's place.
      lora: adapters to merge into the transformer, each a file, FILE:STRENGTH or peft's folder (convert/lora.py).
      mesh: cuts the networks' weights over its devices; use the model under `jax.set_mesh(mesh)`.

    Raises:
      DataError: the folder is missing or incomplete, a file in it is damaged, or metadata.json says what cannot be.
      UsageError: the embeddings are those of another text encoder than the folder's, or the tiny decoder's latents not the model's.
    """
    folder = default_model() if folder is None else Path(folder)
    needed = PARTS if embeddings is None else PARTS[:2]
    check_parts(folder, needed)
    defaults = model_defaults(folder)
    dtype = dtype or defaults.get("dtype", DTYPES[0])
    raise_faults("model", _faults({"dtype": dtype}))
    known = None
    if embeddings is not None:
        known = PromptEmbeddings.load(embeddings)
        if holds(folder, "text_encoder") and encoder_hash(folder) != known.encoder_sha256:
            raise UsageError(
                f"{embeddings} holds embeddings of another text encoder than that of {folder}: make it again with --embed-only"
            )
    others = outside_blocks(dtype)
    vae = load_vae(folder, others, mesh=mesh)
    if tiny_decoder is not None and (vae.cfg.mean, vae.cfg.std) != (
        VAEConfig().mean,
        VAEConfig().std,
    ):
        raise UsageError(
            f"{tiny_decoder} decodes Wan2.1's latents, and those of {folder} are of another VAE: leave out the tiny decoder"
        )
    transformer = load_transformer(folder, others, lora=lora, mesh=mesh)
    return Model(
        quantize_blocks(transformer) if dtype == "float8" else transformer,
        vae,
        load_text_encoder(folder, others, mesh=mesh) if known is None else None,
        load_tokenizer(folder) if known is None else None,
        folder=folder,
        embeddings=known,
        tiny_decoder=None
        if tiny_decoder is None
        else load_tiny_decoder(tiny_decoder, others, mesh=mesh),
        **{**defaults, "dtype": dtype},
    )


def save_embeddings(
    path: Path, folder: str | Path | None, prompts: list[tuple[str, str]], dtype: str | None = None
) -> list[str]:
    """Embeds prompts with the text encoder in `folder`, the only network that is loaded, and adds them to the file at `path`.

    `prompts`: (where it stands, its text); the model's negative prompt is always among them. Returns those that were new.

    Raises as `load_model` does, and `UsageError` for prompts that the model cannot read.
    """
    folder = default_model() if folder is None else Path(folder)
    check_parts(folder, PARTS)
    defaults = model_defaults(folder)
    dtype = dtype or defaults.get("dtype", DTYPES[0])
    raise_faults("model", _faults({"dtype": dtype}))
    with open_part(folder, "transformer") as tensors:
        text_len = describe("transformer", tensors).config.text_len
    tokenizer = load_tokenizer(folder)
    prompts = [*prompts, ("negative", defaults.get("negative", ""))]
    check_prompts(prompts, tokenizer, text_len)
    encoder = load_text_encoder(folder, outside_blocks(dtype))
    return embed_prompts(
        path, [text for _, text in prompts], encoder, tokenizer, text_len, encoder_hash(folder)
    )


def check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    """`DataError` where the model in `folder` lacks one of these parts."""
    missing = [f"{part}/" for part in parts if not holds(folder, part)]
    if not missing:
        return
    if folder == EMBEDDED:
        raise DataError(
            f"this installation has no embedded weights ({folder} lacks {', '.join(missing)}): install the released package, or train "
            "a model with `causalcine train --config configs/base.py` and pass its folder as --model"
        )
    base = base_of(folder)
    what = f"{folder}, with VAE and text encoder of {base}," if base else folder
    raise DataError(
        f"{what} is not a model folder: it lacks {', '.join(missing)} (`causalcine convert` makes one from checkpoints)"
    )


def notes(folder: Path, lora: Asked | Sequence[Asked] | None = None) -> list[str]:
    """What a user should know of how the model in `folder` is read and used, a line each: adapters and their scales, eight bits, an unknown family."""
    told = "sampler" in load_metadata(folder)
    if (told and not lora) or orbax_copy.find(folder, "transformer") is not None:
        return []
    with open_part(folder, "transformer", lora_path=lora) as tensors:
        sizes = None if told else describe("transformer", tensors).config
        lines = tensors.notes
    if not told and guess_family.guess(folder, sizes) is None:
        lines.append(
            f"note: the family of {folder.name} is not known, so it films as {families.ASSUMED}, where no flag says otherwise; causalcine convert "
            "--family NAME records another"
        )
    return lines


def model_defaults(folder: Path) -> dict[str, Any]:
    """What metadata.json says of how to use the model, or else the family that its name tells, as fields of `Model`; empty where neither does.

    Raises:
      DataError: metadata.json says what cannot be.
    """
    said = load_metadata(folder)
    guessed = None if said else guess_family.guess(folder)
    if guessed is not None:  # by its name: does its transformer have the size?
        with contextlib.suppress(DataError), open_part(folder, "transformer") as tensors:
            guessed = guess_family.guess(folder, describe("transformer", tensors).config)
    if guessed is not None:
        said = guessed.defaults()
    kinds = {"video": Video, "sampler": SamplerConfig, "memory": MemoryConfig}
    try:
        defaults = {name: kind(**said[name]) for name, kind in kinds.items() if name in said}
        defaults |= {
            name: said[name] for name in ("chunk_frames", "negative", "dtype") if name in said
        }
        raise_faults("metadata", _faults(defaults))
    except (TypeError, UsageError) as error:
        raise DataError(f"{folder / 'metadata.json'}: {error}") from error
    return defaults


def _faults(defaults: dict[str, Any]) -> list[str]:
    chunk, negative, dtype = (
        defaults.get("chunk_frames", 1),
        defaults.get("negative", ""),
        defaults.get("dtype", DTYPES[0]),
    )
    faults = []
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        faults.append(f"chunk_frames must be a positive integer, not {chunk!r}")
    if not isinstance(negative, str):
        faults.append(f"negative must be text, not {negative!r}")
    if dtype not in DTYPES:
        faults.append(f"dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not {dtype!r}")
    return faults
