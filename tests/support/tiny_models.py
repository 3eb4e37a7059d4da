"""A whole model small enough to make films in a test.

It has random weights, StoryWorld's words and frames of 32x16 pixels.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import save_model
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.film.model_folder import Model
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.parallel.mesh import AXES
from causalcine_jax.story import Video
from causalcine_jax.storyworld.grammar import VOCABULARY

WORDS = word_tokenizer(VOCABULARY)
SIZE = Video(16, 32, 16)


def random_weights(make, seed: int):
    """Returns the module `make(key)` with random weights, without compiling anything."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: make(jax.random.key(0)))
    # Rounded by numpy: jax would compile that for each shape.
    made = lambda leaf: jax.device_put((0.3 * rng.standard_normal(leaf.shape)).astype(np.float32))
    return jax.tree.map(made, shapes)


def tiny_model(**options) -> Model:
    transformer = TransformerConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=16, text_len=24, freq_dim=16
    )
    vae = VAEConfig(4, 16, (1, 1, 1), 1, (True, True), mean=(0.0,) * 16, std=(1.0,) * 16)
    text = TextEncoderConfig(WORDS.size, dim=16, dim_attn=16, dim_ffn=32, num_heads=2, num_layers=1)
    return Model(
        random_weights(lambda key: Transformer(transformer, key=key), 0),
        random_weights(lambda key: VAE(vae, key=key), 1),
        random_weights(lambda key: UMT5Encoder(text, key=key), 2),
        WORDS,
        **{
            "video": SIZE,
            "sampler": SamplerConfig(steps=2, guidance=3.0),
            "memory": MemoryConfig("camr", 1, 2),
            **options,
        },
    )


def tiny_folder(folder: Path, model: Model | None = None) -> Path:
    """Saves the model (None: `tiny_model()`) in float32, as a model folder."""
    model = model or tiny_model()
    save_model(
        folder,
        transformer=model.transformer,
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        dtype=jnp.float32,
        metadata=model.defaults(),
    )
    return folder


def mesh_of_nothing(data: int, seq: int) -> AbstractMesh:
    """Returns a mesh without devices, to trace under, with jax.sharding.Mesh's axis types."""
    return AbstractMesh((data, seq), AXES, axis_types=(AxisType.Auto,) * 2)
