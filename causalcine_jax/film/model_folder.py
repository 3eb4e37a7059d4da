"""A model folder: the networks that make a film, and their defaults.

metadata.json beside the networks may give what the model was trained for. Its fields are `video`
{fps, width, height}, `sampler`, `memory`, `chunk_frames`, `negative` and `dtype`. A folder without
one, such as Wan2.1's own, uses the family guessed from its name (families.py). Stories and flags
override both. `base` names the model that this one was distilled from.
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from causalcine_jax import families
from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.config import DTYPES, MemoryConfig
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
from causalcine_jax.convert.formats import PartTensors, open_part
from causalcine_jax.convert.lora import Asked
from causalcine_jax.convert.metadata import base_of
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, raise_faults
from causalcine_jax.film.chosen_model import EMBEDDED, default_model
from causalcine_jax.film.embeddings import PromptEmbeddings, embed, encoder_hash
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.film.record_schema import field_faults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.float8 import outside_blocks, quantize_blocks
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.story import Story, Video
from causalcine_jax.story_schema import size_faults

PARTS = ("transformer", "vae", "text_encoder")


@dataclass(frozen=True)
class Model:
    """Three networks, their tokenizer, and their defaults.

    text_encoder, tokenizer   None if `embeddings` replace them
    chunk_frames              latent frames that are made at once
    negative                  the text that guidance steers away from, if the story gives none
    dtype                     of the networks
    tiny_decoder              replaces the VAE's decoder if given
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
    def name(self) -> str:
        """Its folder's, if it has one."""
        return self.folder.name if self.folder else "model"

    @property
    def decoder(self) -> VAE | TinyDecoder:
        """The network that decodes latents into frames."""
        return self.tiny_decoder or self.vae

    def defaults(self) -> dict[str, Any]:
        """The fields of metadata.json that restore these defaults."""
        nested = {
            name: dataclasses.asdict(getattr(self, name)) for name in ("video", "sampler", "memory")
        }
        return nested | {
            name: getattr(self, name) for name in ("chunk_frames", "negative", "dtype")
        }

    def completed(self, story: Story) -> Story:
        """The story with the model's size and negative prompt where it sets none."""
        if story.video.height is None:
            story = dataclasses.replace(
                story, video=dataclasses.replace(self.video, fps=story.video.fps)
            )
        return dataclasses.replace(story, negative=story.negative or self.negative)

    def check_prompts(self, prompts, story: Story | None = None) -> None:
        """`UsageError` listing every prompt of `story` that cannot be read.

        prompts  (where it occurs, its text)
        """
        text_len = self.transformer.config.text_len
        if self.embeddings is not None:
            self.embeddings.check(prompts, text_len, self.transformer.config.text_dim)
        else:
            assert self.tokenizer is not None
            check_prompts(prompts, self.tokenizer, text_len, story)

    def embed(self, prompt: str) -> Float[Array, "1 t c"]:
        """One prompt's embedding, zero beyond its tokens; computed, or read from `embeddings`."""
        text_len = self.transformer.config.text_len
        if self.embeddings is not None:
            return jnp.asarray(self.embeddings.padded(prompt, text_len))
        assert self.text_encoder is not None and self.tokenizer is not None
        return embed(self.text_encoder, self.tokenizer, prompt, text_len)


def latent_size(model: Model, height: int, width: int) -> tuple[int, int]:
    """Height and width of latent frames of `height` x `width` pixels.

    Raises:
      UsageError: the model cannot make that size; names the nearest legal ones.
    """
    stride, (_, rows, columns) = model.vae.cfg.spatial_stride, model.transformer.config.patch_size
    steps = stride * rows, stride * columns
    raise_faults(f"frames of {width}x{height} pixels", size_faults(height, width, steps))
    return height // stride, width // stride


def load_model(
    folder: str | Path | None = None,
    dtype: str | None = None,
    *,
    embeddings: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
    lora: Asked | list[Asked] | tuple[Asked, ...] | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """The model in `folder`; None is the embedded few-step student, or the base model without one.

    Args:
      folder: a folder with all three networks: a model folder, Wan2.1's own or Diffusers'. It may
        also hold only a distilled transformer: metadata.json then names the base with the other two
        networks (convert/metadata.py).
      dtype: float32, bfloat16 or float8; defaults to metadata.json's, or float32.
      embeddings: a file of prompt embeddings; the text encoder is then not loaded, may be missing.
      tiny_decoder: TAEHV's file for Wan2.1, which replaces the VAE's decoder.
      lora: adapters to merge into the transformer: a file, FILE:STRENGTH or peft's folder each
        (convert/lora.py).
      mesh: shards the networks' weights over its devices; use the model under `jax.set_mesh(mesh)`.

    Raises:
      DataError: the folder is missing or incomplete, a file damaged, or metadata.json invalid.
      UsageError: the embeddings are of another text encoder, or the tiny decoder of other latents.
    """
    folder = default_model() if folder is None else Path(folder)
    needed = PARTS if embeddings is None else PARTS[:2]
    check_parts(folder, needed)
    defaults = model_defaults(folder)
    dtype = dtype or defaults.get("dtype", DTYPES[0])
    check_dtype(dtype)
    known = None
    if embeddings is not None:
        known = PromptEmbeddings.load(embeddings)
        if holds(folder, "text_encoder") and encoder_hash(folder) != known.encoder_sha256:
            raise UsageError(
                f"{embeddings} holds embeddings of another text encoder than that of {folder}: "
                "make it again with --embed-only"
            )
    others = outside_blocks(dtype)
    vae = load_vae(folder, others, mesh=mesh)
    if tiny_decoder is not None and (vae.cfg.mean, vae.cfg.std) != (
        VAEConfig().mean,
        VAEConfig().std,
    ):
        raise UsageError(
            f"{tiny_decoder} decodes Wan2.1's latents, and those of {folder} are of another VAE: "
            "leave out the tiny decoder"
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


def transformer_sizes(tensors: PartTensors) -> TransformerConfig:
    config = describe("transformer", tensors).config
    assert isinstance(config, TransformerConfig)
    return config


def check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    """`DataError` if the model in `folder` lacks one of these parts."""
    missing = [f"{part}/" for part in parts if not holds(folder, part)]
    if not missing:
        return
    if folder == EMBEDDED:
        raise DataError(
            f"this installation has no embedded weights ({folder} lacks {', '.join(missing)}): "
            "install the released package, or train a model with "
            "`causalcine train --config configs/base.py` and pass its folder as --model"
        )
    base = base_of(folder)
    what = f"{folder}, with VAE and text encoder of {base}," if base else folder
    raise DataError(
        f"{what} is not a model folder: it lacks {', '.join(missing)} "
        "(`causalcine convert` makes one from checkpoints)"
    )


def notes(folder: Path, lora: Asked | list[Asked] | tuple[Asked, ...] | None = None) -> list[str]:
    """Notes for the user on how the model in `folder` is read, one line each.

    They name adapters and their scales, weights in eight bits, and an unknown family.
    """
    told = "sampler" in load_metadata(folder)
    if (told and not lora) or orbax_copy.find(folder, "transformer") is not None:
        return []
    with open_part(folder, "transformer", lora_path=lora) as tensors:
        sizes = None if told else transformer_sizes(tensors)
        lines = tensors.notes
    if not told and guess_family.guess(folder, sizes) is None:
        lines.append(
            f"note: the family of {folder.name} is not known, so it films as {families.ASSUMED}, "
            "where no flag says otherwise; causalcine convert --family NAME records another"
        )
    return lines


def model_defaults(folder: Path) -> dict[str, Any]:
    """The model's defaults as fields of `Model`, from metadata.json or the guessed family.

    Empty if there is neither. `DataError` if metadata.json is invalid.
    """
    said = load_metadata(folder)
    guessed = None if said else guess_family.guess(folder)
    if guessed is not None:  # from the name: check the transformer's size too
        with contextlib.suppress(DataError), open_part(folder, "transformer") as tensors:
            guessed = guess_family.guess(folder, transformer_sizes(tensors))
    if guessed is not None:
        said = guessed.defaults()
    kinds = {"video": Video, "sampler": SamplerConfig, "memory": MemoryConfig}
    try:
        faults = [field_faults(kind, said[n], n) for n, kind in kinds.items() if n in said]
        raise_faults("metadata", [fault for each in faults for fault in each])
        defaults = {name: kind(**said[name]) for name, kind in kinds.items() if name in said}
        defaults |= {
            name: said[name] for name in ("chunk_frames", "negative", "dtype") if name in said
        }
        raise_faults("metadata", _faults(defaults))
    except (TypeError, UsageError) as error:
        raise DataError(f"{folder / 'metadata.json'}: {error}") from error
    return defaults


def check_dtype(dtype: str) -> None:
    """`UsageError` unless networks can be loaded in this dtype."""
    raise_faults("model", _faults({"dtype": dtype}))


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
