import itertools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import GOLDENS
from safetensors.numpy import save_file
from tiny_models import random_weights

from causalcine_jax.convert import load_vae, save_model
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.vae import convolution
from causalcine_jax.models.vae import layers as vae_layers
from causalcine_jax.models.vae.wan_vae import VAE, patches, pixels
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training.stages.autoencoder import (
    AutoencoderConfig,
    autoencoder_loss,
    edge_difference,
    latent_statistics,
)

GOLDENS_FILE = GOLDENS / "vae.npz"
TINY = VAEConfig(2, 3, (1, 1, 2), 1, (True, True), mean=(0.5, -1.0, 0.0), std=(2.0, 0.5, 1.0))


@pytest.fixture(scope="module")
def vae() -> VAE:
    return random_weights(lambda key: VAE(TINY, key=key), 0)


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).uniform(-1, 1, (2, 13, 4, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def latents(vae, video):
    return vae.encode(video)


def test_equals_diffusers(tmp_path):
    with np.load(GOLDENS_FILE) as file:
        arrays = dict(file)
    save_file(
        {k.removeprefix("weights/"): a for k, a in arrays.items() if k.startswith("weights/")},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(arrays["config"].item())
    vae = load_vae(tmp_path)
    assert list(vae.cfg.mean) == json.loads(arrays["config"].item())["mean"]
    for case in ("image", "film"):
        encoded = vae.encode(arrays[f"{case}/video"].astype(np.float32) / 127.5 - 1)
        decoded = vae.decode(arrays[f"{case}/latents"])
        for ours, theirs in (
            (encoded, arrays[f"{case}/latents"]),
            (decoded, arrays[f"{case}/decoded"]),
        ):
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (2, 2)])
def test_streaming_equals_coding_the_whole_film(vae, video, latents, pieces):
    whole = vae.decode(latents)
    ends = np.cumsum(pieces)

    encoded, cache = vae.encode_first(video[:, : 4 * ends[0] - 3])
    decoded, past = vae.decode_first(latents[:, : ends[0]])
    assert decoded.shape[1] == 4 * pieces[0] - 3
    encodeds, decodeds = [encoded], [decoded]
    for start, end in zip(ends, ends[1:]):
        encoded, cache = vae.encode_next(cache, video[:, 4 * start - 3 : 4 * end - 3])
        decoded, past = vae.decode_next(past, latents[:, start:end])
        assert decoded.shape[1] == 4 * (end - start)
        encodeds.append(encoded)
        decodeds.append(decoded)
    np.testing.assert_allclose(np.concatenate(encodeds, 1), latents, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(decodeds, 1), whole, atol=1e-5)
    assert all(
        isinstance(leaf, jax.Array)
        for leaf in jax.tree.leaves((cache, past), is_leaf=lambda x: x is None)
    )


def test_the_past_does_not_see_the_future(vae, video, latents):
    changed = video.copy()
    changed[:, 9:] = 0
    encoded = vae.encode(changed)
    np.testing.assert_allclose(encoded[:, :3], latents[:, :3], atol=1e-6)
    assert np.abs(encoded[:, 3] - latents[:, 3]).max() > 1e-3


def test_conv3d_by_frames_equals_conv3d(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 6, 7, 3), np.float32)
    weight = rng.standard_normal((3, 3, 3, 3, 4), np.float32)
    convolved = lambda: jax.jit(lambda x, weight: convolution.conv3d(x, weight))(x, weight)
    folded = convolved()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(folded, convolved(), atol=1e-5)


@jax.jit
def streamed(layer, x, cache=()):
    """A layer's frames, and what it keeps of them."""
    past = vae_layers.Past(cache)
    return layer(x, past), past.cache


def test_the_first_frame_is_not_doubled_and_not_seen_by_the_second():
    """Upsample by hand: time_conv gives (a, b) = (x + 10 x_before, -x).

    Frame 0 is not doubled; frame 1 sees zeros before it.
    """
    layer = random_weights(lambda key: vae_layers.Upsample(2, temporal=True, key=key), 0)
    layer = jax.tree.map(np.zeros_like, layer)
    weight = np.zeros((3, 1, 1, 2, 4), np.float32)
    weight[2, 0, 0, :, :2], weight[1, 0, 0, :, :2], weight[2, 0, 0, :, 2:] = (
        np.eye(2),
        10 * np.eye(2),
        -np.eye(2),
    )
    layer.time_conv.weight[...] = weight
    layer.conv.weight[...][1, 1, 0] = 1.0  # shows channel 0
    x = np.ones((1, 3, 2, 2, 2), np.float32) * np.arange(1, 4)[:, None, None, None]

    y, cache = streamed(layer, x.astype(np.float32))
    assert y.shape == (1, 5, 4, 4, 1)
    np.testing.assert_allclose(np.asarray(y)[0, :, 0, 0, 0], [1, 2, -2, 3 + 20, -3])
    y, _ = streamed(layer, 4 * np.ones((1, 1, 2, 2, 2), np.float32), cache)
    np.testing.assert_allclose(np.asarray(y)[0, :, 0, 0, 0], [4 + 30, -4])


def test_downsample_keeps_the_first_frame_and_halves_the_rest():
    """Downsample by hand: time_conv sums 1, 10 and 100 times three frames.

    Its windows begin at frames 0, 2, ... of the film.
    """
    layer = random_weights(lambda key: vae_layers.Downsample(1, temporal=True, key=key), 0)
    layer = jax.tree.map(np.zeros_like, layer)
    layer.time_conv.weight[...][:, 0, 0, 0, 0] = 1, 10, 100
    layer.conv.weight[...][2, 2] = 1.0  # pixel (2, 2) of a window that starts at (0, 0)
    x = np.zeros((1, 5, 4, 4, 1), np.float32)
    x[0, :, 2, 2, 0] = np.arange(1, 6)

    y, cache = streamed(layer, x)
    y = np.asarray(y)
    assert y.shape == (1, 3, 2, 2, 1)
    np.testing.assert_allclose(y[0, :, 0, 0, 0], [1, 321, 543])
    np.testing.assert_allclose(y[0, :, 1, 1, 0], 0)  # padded below and to the right, with zeros
    y, _ = streamed(layer, x[:, :2], cache)
    np.testing.assert_allclose(np.asarray(y)[0, :, 0, 0, 0], [215])


def test_patches_are_ordered_as_in_wan2_2():
    """Wan2.2: b c f (h q) (w r) -> b (c r q) f h w; here channels come last."""
    video = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(1, 2, 4, 6, 3)
    folded = np.asarray(jax.jit(patches, static_argnums=1)(video, 2))
    assert folded.shape == (1, 2, 2, 3, 12)
    for colour, column, row in itertools.product(range(3), range(2), range(2)):
        np.testing.assert_array_equal(
            folded[..., 4 * colour + 2 * column + row], video[:, :, row::2, column::2, colour]
        )
    np.testing.assert_array_equal(jax.jit(pixels, static_argnums=1)(folded, 2), video)


def test_a_vae_of_patches_streams_and_is_saved_with_its_patch_size(tmp_path, video):
    sizes = replace(TINY, patch_size=2)
    assert sizes.spatial_stride == 8
    vae = random_weights(lambda key: VAE(sizes, key=key), 1)
    video = video[:1, :9].repeat(2, axis=2)[:, :, :8]
    save_model(tmp_path / "model", vae=vae)
    loaded = load_vae(tmp_path / "model")
    assert loaded.cfg == sizes
    latents = loaded.encode(video)
    assert latents.shape == (1, 3, 1, 1, 3)
    decoded, cache = loaded.decode_first(latents[:, :1])
    rest, _ = loaded.decode_next(cache, latents[:, 1:])
    whole = loaded.decode(latents)
    assert whole.shape == video.shape
    np.testing.assert_allclose(np.concatenate([decoded, rest], axis=1), whole, atol=1e-5)


def test_bfloat16_weights_compute_in_bfloat16(vae, video, latents):
    half = jax.tree.map(lambda p: jax.device_put(np.asarray(p).astype(jnp.bfloat16)), vae)
    encoded = half.encode(video)
    assert encoded.dtype == jnp.bfloat16
    assert np.linalg.norm(encoded.astype(np.float32) - latents) < 0.1 * np.linalg.norm(latents)


@pytest.mark.parametrize(
    "shape, words", [((1, 4, 8, 8, 3), "4F - 3"), ((1, 5, 6, 8, 3), "divisible by 4")]
)
def test_sizes_that_do_not_fit_are_named(vae, shape, words):
    with pytest.raises(UsageError, match=words):
        vae.encode(np.zeros(shape, np.float32))


def test_latents_of_another_vae_are_named(vae):
    with pytest.raises(UsageError, match="16 channels"):
        vae.decode(np.zeros((1, 2, 1, 1, 16), np.float32))


def test_loss_is_the_sum_of_its_parts_and_differentiable(vae, video):
    config = AutoencoderConfig(kl=0.1, edge=0.3)
    gradient_and_parts = jax.jit(
        jax.grad(lambda v, x: autoencoder_loss(v, x, jax.random.key(0), config), has_aux=True)
    )
    gradient, parts = gradient_and_parts(vae, video[:1, :5])
    np.testing.assert_allclose(
        parts["loss"], parts["l1"] + 0.3 * parts["edge"] + 0.1 * parts["kl"], rtol=1e-5
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)

    silent = jax.tree.map(np.zeros_like, vae)  # every norm divides by the length of a zero vector
    gradient, _ = gradient_and_parts(silent, np.zeros_like(video[:1, :5]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_edge_difference_by_hand():
    step, of = np.zeros((1, 1, 2, 3, 1), np.float32), jax.jit(edge_difference)
    step[..., 1:, :] = 1
    # One vertical edge in either row: 2 of 4 horizontal differences are 1.
    assert of(step, np.zeros_like(step)) == pytest.approx(0.5)
    assert of(step + 7, step) == 0


def test_latent_statistics_are_those_of_all_clips(vae, video, latents):
    config = latent_statistics(vae, [video[:1], video[1:]])
    latents = (np.asarray(latents) * TINY.std + TINY.mean).reshape(-1, TINY.z_dim)
    np.testing.assert_allclose(config.mean, latents.mean(0), atol=1e-5)
    np.testing.assert_allclose(config.std, latents.std(0), atol=1e-5)
    assert replace(config, mean=TINY.mean, std=TINY.std) == TINY
    with pytest.raises(DataError, match="constant"):
        latent_statistics(jax.device_put(jax.tree.map(np.zeros_like, vae)), [video])
