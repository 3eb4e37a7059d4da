import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.models.text.umt5 import UMT5Encoder, relative_buckets
from causalcine_jax.network_sizes import TextEncoderConfig

CFG = TextEncoderConfig(
    vocab_size=40,
    dim=16,
    dim_attn=24,
    dim_ffn=32,
    num_heads=3,
    num_layers=2,
    num_buckets=8,
    max_distance=16,
)


@pytest.fixture(scope="module")
def encoder():
    return jax.jit(lambda: UMT5Encoder(CFG, key=jax.random.key(0)))()


encode = jax.jit(lambda encoder, ids, mask: encoder(ids, mask))


def batch(lengths, length, seed=0):
    ids = (
        np.random.default_rng(seed)
        .integers(3, CFG.vocab_size, (len(lengths), length))
        .astype(np.int32)
    )
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int32)
    return ids * mask, mask


def test_buckets_by_hand():
    # 8 buckets: 0..3 for keys at or before the query, 4..7 after it. Distances 0 and 1 are exact;
    # 2..5 share a bucket, and 6.. another.
    row = relative_buckets(9, 8, 16)[4]
    assert row.tolist() == [2, 2, 2, 1, 0, 5, 6, 6, 6]
    first = relative_buckets(40, 8, 16)[0]
    assert first[:10].tolist() == [0, 5, 6, 6, 6, 6, 7, 7, 7, 7] and (first[6:] == 7).all()


def test_wan_buckets_change_where_the_logarithm_says():
    after = relative_buckets(512, 32, 128)[0]
    edges = np.flatnonzero(np.diff(after)) + 1
    assert edges.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    assert after[-1] == 31 and relative_buckets(512, 32, 128)[-1, 0] == 15


def test_padding_rows_are_zero_and_padding_changes_nothing(encoder):
    ids, mask = batch([5, 3], 5)
    short = encode(encoder, ids, mask)
    padded_ids, padded_mask = (np.pad(x, ((0, 0), (0, 4))) for x in (ids, mask))
    padded_ids[padded_mask == 0] = 7  # values in the padding do not matter
    long = encode(encoder, padded_ids, padded_mask)
    assert short.shape == (2, 5, 16) and not np.asarray(long)[padded_mask == 0].any()
    np.testing.assert_allclose(long[:, :5], short, atol=1e-5)


def test_an_unused_prompt_is_all_zero(encoder):
    ids, mask = batch([4, 0], 6)
    out = encode(encoder, ids, mask)
    assert np.isfinite(out).all() and not np.asarray(out[1]).any()


def test_leading_axes_are_prompts(encoder):
    ids, mask = batch([2, 5, 1, 4, 3, 5], 5)
    nested = encode(encoder, ids.reshape(2, 3, 5), mask.reshape(2, 3, 5))
    np.testing.assert_allclose(nested.reshape(6, 5, 16), encode(encoder, ids, mask), atol=1e-6)


def test_word_order_matters_and_every_parameter_learns(encoder):
    ids, mask = batch([6], 6)
    assert (
        np.abs(encode(encoder, ids, mask)[0] - encode(encoder, ids[:, ::-1], mask)[0, ::-1]).max()
        > 1e-3
    )

    @jax.jit
    @jax.grad
    def gradient(model):
        return jnp.sum(model(ids, mask) * jnp.arange(16))

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(encoder)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_bfloat16_weights_compute_in_bfloat16(encoder):
    ids, mask = batch([6, 4], 6)
    half = encode(jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoder), ids, mask)
    whole = encode(encoder, ids, mask)
    assert half.dtype == jnp.bfloat16
    assert np.linalg.norm(half.astype(jnp.float32) - whole) < 2e-2 * np.linalg.norm(whole)


def test_size_of_umt5_xxl():
    shapes = jax.eval_shape(lambda: UMT5Encoder(TextEncoderConfig(), key=jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 5_680_910_336
