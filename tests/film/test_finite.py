"""Finite weights that overflow in a chunk end the film, and the error names the network."""

import dataclasses

import jax
import pytest
from tiny_models import tiny_model

from causalcine_jax.film.director import Director
from causalcine_jax.film.finite import NotFinite
from causalcine_jax.story import Shot, Story

STORY = Story((Shot("Mia waves.", chunks=1),))


def overflowing(part: str, name: str, layer: int | None = None):
    def scaled(path, leaf):
        if not jax.tree_util.keystr(path).startswith(name):
            return leaf
        return leaf * 1e38 if layer is None else leaf.at[layer].multiply(1e38)

    model = tiny_model()
    network = jax.tree_util.tree_map_with_path(scaled, getattr(model, part))
    return dataclasses.replace(model, **{part: network})


@pytest.mark.parametrize(
    ("part", "name", "layer", "said"),
    [
        ("transformer", ".patch_embedding", None, "the transformer gives NaN"),
        ("transformer", ".blocks.ffn_2.weight", 0, "the transformer gives NaN"),
        ("transformer", ".blocks.ffn_2.weight", 1, "the transformer gives NaN"),
        ("text_encoder", ".blocks.ffn", None, "text encoder.*the prompt 'Mia waves.'"),
        ("vae", ".decoder.conv1", None, "VAE's decoder gives NaN"),
    ],
)
def test_the_network_is_named(part, name, layer, said):
    with pytest.raises(NotFinite, match=said):
        next(Director(overflowing(part, name, layer), STORY))
