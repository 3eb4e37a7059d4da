"""TransNetV2's layers against plain numpy and lax. The whole network's numbers: tests/parity."""

import functools

import jax
import numpy as np
import pytest
from tiny_models import random_weights

from causalcine_jax.models.shot_detector import similarity
from causalcine_jax.models.shot_detector.stages import DILATIONS, EPS, DilatedBlock, DilatedStage
from causalcine_jax.models.shot_detector.transnet import TransNet
from causalcine_jax.models.vae import convolution

CHANNELS, HIDDEN = 8, 16


def random_block(d_in: int, d_out: int) -> DilatedBlock:
    block = random_weights(lambda key: DilatedBlock(d_in, d_out, key=key), 0)
    block.norm.variance[...] = jax.device_put(np.abs(block.norm.variance[...]) + np.float32(0.5))
    return block


@pytest.mark.parametrize("own", [True, False], ids=["own kernel", "XLA"])
def test_a_block_is_four_dilated_convolutions_and_a_norm(monkeypatch, own):
    if not own:
        monkeypatch.setattr(convolution, "convolves", lambda dtype: False)
    block = random_block(5, 8)
    x = np.random.default_rng(1).standard_normal((2, 11, 4, 6, 5), np.float32)
    numbers = ("NDHWC", "DHWIO", "NDHWC")

    @functools.partial(jax.jit, static_argnums=2)
    def by_lax(branch, x, dilation):
        y = jax.lax.conv_general_dilated(
            x, branch.space[...][None], (1, 1, 1), ((0, 0), (1, 1), (1, 1)),
            dimension_numbers=numbers, precision="highest",
        )  # fmt: skip
        return jax.lax.conv_general_dilated(
            y,
            branch.time[...][:, None, None],
            (1, 1, 1),
            ((dilation, dilation), (0, 0), (0, 0)),
            rhs_dilation=(dilation, 1, 1),
            dimension_numbers=numbers,
            precision="highest",
        )

    parts = [by_lax(*each) for each in zip(block.branches, [x] * 4, DILATIONS, strict=True)]
    mean, variance, weight, bias = (
        np.asarray(getattr(block.norm, name)[...])
        for name in ("mean", "variance", "weight", "bias")
    )
    wanted = (np.concatenate(parts, -1) - mean) / np.sqrt(variance + EPS) * weight + bias
    np.testing.assert_allclose(jax.jit(lambda block, x: block(x))(block, x), wanted, atol=2e-5)


def test_a_stage_halves_the_size_and_drops_odd_rows_and_columns():
    stage = random_weights(lambda key: DilatedStage(3, 8, key=key), 0)
    x = np.random.default_rng(1).random((1, 4, 7, 9, 3), np.float32)
    for block in stage.blocks:
        block.norm.variance[...] = jax.device_put(np.abs(block.norm.variance[...]))
    call = jax.jit(lambda layer, x: layer(x))
    found = call(stage, x)
    y = np.maximum(call(stage.blocks[0], x), 0)
    y = np.maximum(call(stage.blocks[1], y), 0) + y
    wanted = [[y[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((2, 3)) for c in range(4)]
              for r in range(3)]  # fmt: skip
    assert found.shape == (1, 4, 3, 4, 8)
    np.testing.assert_allclose(found, np.transpose(wanted, (2, 3, 0, 1, 4)), atol=1e-5)


def test_cosines_with_the_frames_around():
    x = np.random.default_rng(0).standard_normal((2, 60, 7)).astype(np.float32)
    x[0, 3] = 0
    found = np.asarray(jax.jit(similarity.near_cosines)(x))
    assert found.shape == (2, 60, 101)
    cosine = lambda a, b: a @ b / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12)
    for batch, t, k in ((0, 0, 50), (0, 0, 49), (1, 59, 50), (1, 59, 51), (0, 3, 50), (1, 20, 90),
                        (1, 55, 0), (0, 9, 100)):  # fmt: skip
        other = t + k - 50
        wanted = cosine(x[batch, t], x[batch, other]) if 0 <= other < 60 else 0
        assert found[batch, t, k] == pytest.approx(wanted, abs=1e-5), (batch, t, k)


def test_histograms_count_colours_by_their_upper_bits():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 27, 48, 3), np.uint8)
    frames[0, 0] = (255, 0, 37)
    found = np.asarray(jax.jit(similarity.histograms)(frames))
    assert found.shape == (2, 3, 512) and np.all(found.sum(-1) == 27 * 48)
    assert found[0, 0, 7 * 64 + 0 * 8 + 1] == 27 * 48
    colours = frames[1, 2].reshape(-1, 3) // 32 @ np.array([64, 8, 1])
    assert np.array_equal(found[1, 2], np.bincount(colours, minlength=512))


def test_the_network_gives_two_logits_a_frame():
    network = random_weights(lambda key: TransNet(key=key, channels=CHANNELS, hidden=HIDDEN), 0)
    positive = lambda path, leaf: jax.device_put(np.abs(leaf)) if "variance" in str(path) else leaf
    network = jax.tree_util.tree_map_with_path(positive, network)
    call = jax.jit(lambda network, frames: network(frames))
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 27, 48, 3), np.uint8)
    logits = np.asarray(call(network, frames))
    assert logits.shape == (2, 9, 2) and logits.dtype == np.float32
    assert np.isfinite(logits).all() and np.std(logits) > 1e-3
    np.testing.assert_allclose(call(network, frames[1:])[0], logits[1], atol=1e-6)
