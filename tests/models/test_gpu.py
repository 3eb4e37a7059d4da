"""On a GPU: cuDNN attention equals XLA's, with lengths, under vmap, both passes; bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models import dit
from causalcine_jax.models.attention import backends as attention
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.network_sizes import TransformerConfig

pytestmark = pytest.mark.gpu


def relative(a, b):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_cudnn_attention_with_lengths_agrees_with_xla():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (2, 3, length, 4, 64), jnp.bfloat16)
        for key, length in zip(keys, (96, 512, 512), strict=True)
    )
    lengths = jnp.asarray([[512, 96, 300], [97, 511, 128]], jnp.int32)

    def run(backend):
        loss = lambda q, k, v: jnp.sum(
            jnp.sin(jax.vmap(backend)(q, k, v, lengths).astype(jnp.float32))
        )
        return jax.vmap(backend)(q, k, v, lengths), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    cudnn, xla = run(attention.BACKENDS["gpu"][0]), run(attention.BACKENDS["gpu"][1])
    assert relative(cudnn[0], xla[0]) <= 2e-2
    for got, expected in zip(cudnn[1], xla[1], strict=True):
        assert relative(got, expected) <= 3e-2


def test_packed_pass_in_bfloat16_is_close_to_float32():
    config = TransformerConfig(
        dim=256, ffn_dim=512, num_heads=4, num_layers=3, text_dim=32, text_len=16
    )
    model = dit.Transformer(config, key=jax.random.key(0))
    model.head.weight[...] = 0.05 * jax.random.normal(jax.random.key(1), model.head.weight.shape)
    clean, noisy = jax.random.normal(jax.random.key(2), (2, 1, 18, 8, 8, 16))
    text, shot = (
        jax.random.normal(jax.random.key(3), (1, 2, 12, 32)),
        jnp.asarray([[0, 0, 0, 1, 1, 1]]),
    )
    # With nothing to retrieve, both precisions see the same frames.
    run = lambda m: teacher_forced(
        m, clean, noisy, 500.0, text, shot, PassConfig(MemoryConfig(policy="sink", memory_frames=3))
    )
    assert relative(run(cast_weights(model, jnp.bfloat16)), run(model)) <= 2e-2
