"""The prompts of a run whose text encoder is not trained: embedded before (`causalcine embed`).

With data.embeddings no text encoder is loaded for training. That of sample films is loaded before
any other network, and dropped again.
"""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from causalcine_jax.convert import abstract_network, load_text_encoder
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.prompt_embeddings import KnownPrompts
from causalcine_jax.film.embeddings import PromptEmbeddings, embed_prompts, encoder_hash
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.text.tokenizer import Tokenizer, clean
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.parallel.processes import text_of_first
from causalcine_jax.story import Story
from causalcine_jax.training.config import TrainConfig

FILE = "sample_prompts.safetensors"  # in a run's out
# A run asks several times, and UMT5-XXL has 11 GB to read.
_encoder_hash = functools.cache(encoder_hash)


def text_model(config: TrainConfig) -> Path:
    """The model whose text encoder the run keeps as it is."""
    return Path(config.teacher if config.facts.student else config.init)


def sizes_of(model: Path) -> tuple[TransformerConfig, TextEncoderConfig]:
    """Sizes of a model's transformer and text encoder, from headers alone."""
    transformer, _ = abstract_network(model, "transformer")
    text_encoder, _ = abstract_network(model, "text_encoder")
    assert isinstance(transformer, TransformerConfig) and isinstance(
        text_encoder, TextEncoderConfig
    )
    return transformer, text_encoder


def null_prompt(config: TrainConfig, tokenizer: Tokenizer, text_len: int) -> Int[np.ndarray, " t"]:
    """Token ids of the prompt that stands for no caption.

    For a student it is what its teacher's guidance steers away from.
    """
    told = model_defaults(text_model(config)).get("negative", "") if config.facts.student else ""
    return tokenizer([told], text_len)[0][0]


def known_prompts(
    config: TrainConfig, store: LatentStore | MixedStore, tokenizer: Tokenizer
) -> KnownPrompts:
    """The embeddings of the store's prompts.

    `UsageError` if it has none, or none of the run's text encoder.
    """
    model = text_model(config)
    return KnownPrompts(
        store.folders,
        text_of_first(lambda: _encoder_hash(model)),
        null_prompt(config, tokenizer, store.spec.text_len),
        config.dtype,
        f"causalcine embed --model {model} --store {store.path}",
    )


def embed_sample(config: TrainConfig, story: Story, tokenizer: Tokenizer) -> Path:
    """The file in config.out with the prompts of a sampled story; embeds them if one is missing."""
    file, model = Path(config.out) / FILE, text_model(config)
    texts = [shot.prompt for shot in story.resolve(config.chunk_frames).shots]
    texts += [story.negative or "", model_defaults(model).get("negative", "")]
    encoder_sha256 = _encoder_hash(model)
    if file.exists() and PromptEmbeddings.load(file).encoder_sha256 != encoder_sha256:
        file.unlink()  # of an earlier run from another model
    if not (file.exists() and {*map(clean, texts)} <= {*PromptEmbeddings.load(file).rows}):
        text_len = sizes_of(model)[0].text_len
        encoder = load_text_encoder(model, jnp.dtype(config.dtype))
        embed_prompts(file, texts, encoder, tokenizer, text_len, encoder_sha256)
    return file


def embeddings_for(file: Path, model: Path) -> Path:
    """The file's embeddings as those of `model`, an export: its text encoder is a copy."""
    copy = file.with_stem(f"{file.stem}_of_model")
    known = PromptEmbeddings.load(file)
    PromptEmbeddings(encoder_hash(model), known.rows).save(copy)
    return copy
