"""TAEHV in the VAE's place: streaming, loading, refusals and decoding. Numbers: tests/parity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import SIZE, random_weights, tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.convert import load_tiny_decoder, save_model, tables
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.story import Shot, Story


@pytest.fixture(scope="module")
def decoder():
    made = random_weights(lambda key: TinyDecoder(key=key), 0)
    return jax.device_put(jax.tree.map(lambda leaf: np.float32(0.1) * np.asarray(leaf), made))


@pytest.fixture(scope="module")
def tensors(decoder):
    parameters = tables.parameters(decoder)
    places = tables.places(decoder, tables.TINY_DECODER)
    tensors = {
        place.key: np.ascontiguousarray(place.to_torch(np.asarray(parameters[place.path])))
        for place in places
    }
    return tensors | {"encoder.0.weight": np.zeros((64, 3, 3, 3), np.float32)}


def test_the_keys_are_those_of_taew2_1(tensors):
    """Shapes of torch's modules, 23 layers.

    Convolutions are 1, 8, 14, 20 and 22; layers 7, 13 and 19 multiply the frames.
    """
    found = {key: value.shape for key, value in tensors.items() if key.startswith("decoder.")}
    assert len(found) == 2 + 3 * (3 * 3 * 2 + 2) + 2
    assert (
        found["decoder.1.weight"] == (256, 16, 3, 3)
        and found["decoder.22.weight"] == (3, 64, 3, 3)
        and "decoder.8.bias" not in found
    )
    assert [found[f"decoder.{n}.conv.weight"] for n in (7, 13, 19)] == [
        (256, 256, 1, 1),
        (256, 128, 1, 1),
        (128, 64, 1, 1),
    ]
    assert [found[f"decoder.{n}.weight"] for n in (8, 14, 20)] == [
        (128, 256, 3, 3),
        (64, 128, 3, 3),
        (64, 64, 3, 3),
    ]
    assert found["decoder.9.conv.0.weight"] == (128, 256, 3, 3) and found[
        "decoder.17.conv.4.bias"
    ] == (64,)


def test_streamed_decoding_equals_whole_decoding(decoder):
    latents = np.random.default_rng(0).standard_normal((1, 5, 2, 3, 16), np.float32)
    whole, _ = decoder.decode_first(latents)
    assert whole.shape == (1, 17, 16, 24, 3) and np.std(whole) > 0.01
    first, cache = decoder.decode_first(latents[:, :2])
    then, _ = decoder.decode_next(cache, latents[:, 2:])
    np.testing.assert_allclose(np.concatenate([first, then], axis=1), whole, atol=1e-6)


def test_a_file_is_read_and_what_does_not_fit_is_listed(decoder, tensors, tmp_path):
    save_file(tensors, tmp_path / "taew2_1.safetensors")
    read = load_tiny_decoder(tmp_path / "taew2_1.safetensors")
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(decoder), strict=True)
    )
    wrong = {key: value for key, value in tensors.items() if key != "decoder.8.weight"} | {
        "decoder.1.weight": np.zeros((256, 48, 3, 3))
    }
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(
        DataError,
        match=r"(?s)2 of its tensors do not fit.*misshapen  decoder.1.weight "
        r".*missing    decoder.8.weight",
    ):
        load_tiny_decoder(tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match=r"no tiny decoder at .*none\.pth: there is no such file"):
        load_tiny_decoder(tmp_path / "none.pth")


def test_it_decodes_a_film_in_the_vaes_place(decoder):
    model = tiny_model(tiny_decoder=decoder)
    director = Director(model, Story((Shot("Mia waves.", chunks=2),)), pool=PoolConfig(9))
    made = [chunk.frames.shape for chunk in director]
    # The test's VAE upsamples by 4, TAEHV by 8.
    assert made == [
        (9, 2 * SIZE.height, 2 * SIZE.width, 3),
        (12, 2 * SIZE.height, 2 * SIZE.width, 3),
    ]


def test_another_vaes_latents_are_refused(tensors, tmp_path):
    save_file(tensors, tmp_path / "taew2_1.safetensors")
    model = tiny_model()
    wan = jax.tree.map(jnp.asarray, model.vae)
    folder = {
        "transformer": model.transformer,
        "text_encoder": model.text_encoder,
        "tokenizer": model.tokenizer,
        "dtype": jnp.float32,
    }
    save_model(tmp_path / "other", vae=model.vae, metadata=model.defaults(), **folder)
    with pytest.raises(
        UsageError,
        match=r"taew2_1.safetensors decodes Wan2.1's latents, "
        r"and those of .*other are of another VAE",
    ):
        load_model(tmp_path / "other", tiny_decoder=tmp_path / "taew2_1.safetensors")
    wan.cfg = dataclasses.replace(wan.cfg, mean=VAEConfig().mean, std=VAEConfig().std)
    save_model(tmp_path / "wan", vae=wan, metadata=model.defaults(), **folder)
    assert (
        load_model(tmp_path / "wan", tiny_decoder=tmp_path / "taew2_1.safetensors").decoder
        is not None
    )
