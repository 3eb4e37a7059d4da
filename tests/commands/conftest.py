"""A model folder for the commands that take one."""

import jax.numpy as jnp
import pytest
from tiny_models import tiny_model

from causalcine_jax.convert import save_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    model = tiny_model()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        folder, transformer=model.transformer, vae=model.vae, text_encoder=model.text_encoder,
        tokenizer=model.tokenizer, dtype=jnp.float32, metadata=model.defaults(),
    )  # fmt: skip
    return folder
