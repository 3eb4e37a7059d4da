"""Accelerators' attention without the accelerators: the arguments for cuDNN, and the TPU's kernel.

XLA's attention replaces cuDNN and refuses what cuDNN's backward pass refuses. The TPU's kernel is
interpreted.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import mesh_of_nothing

from causalcine_jax.models.attention import backends as attention
from causalcine_jax.models.attention import splash
from causalcine_jax.parallel import ulysses
from causalcine_jax.planning.jaxpr_flops import flops_by_kind


def random(*shape, seed, dtype=jnp.bfloat16):
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def test_cudnn_is_given_even_lengths_and_both_of_them_batched(monkeypatch):
    asked, xla = [], jax.nn.dot_product_attention

    def kernel(q, k, v, *, query_seq_lengths=None, key_value_seq_lengths=None, implementation):
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0 and implementation == "cudnn"
        asked.append((q.shape[1], jnp.shape(query_seq_lengths), jnp.shape(key_value_seq_lengths)))
        # Under vmap both must be batched or neither, or cuDNN's batching rule fails.
        assert isinstance(query_seq_lengths, jax.core.Tracer) == isinstance(
            key_value_seq_lengths, jax.core.Tracer
        )
        return xla(
            q,
            k,
            v,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            implementation="xla",
        )

    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", kernel)
    q, k, v = (random(2, 3, length, 2, 8, seed=i) for i, length in enumerate((5, 6, 6)))
    lengths = np.asarray([[6, 2, 4], [1, 5, 3]], np.int32)
    own, plain = (jax.jit(jax.vmap(backend)) for backend in attention.BACKENDS["gpu"][:2])
    out = own(q, k, v, lengths)
    monkeypatch.undo()
    np.testing.assert_allclose(np.float32(out), np.float32(plain(q, k, v, lengths)), atol=1e-2)
    assert asked == [(6, (3,), (3,))]


@pytest.mark.parametrize("lengths", [None, (5, 2, 4)])
def test_odd_keys_are_padded_under_a_length(monkeypatch, lengths):
    xla, asked = jax.nn.dot_product_attention, []

    def kernel(q, k, v, *, key_value_seq_lengths, implementation, **_):
        assert implementation == "cudnn" and q.shape[1] % 2 == k.shape[1] % 2 == 0
        asked.append(k.shape[1])
        return xla(q, k, v, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    q, k, v = (random(3, 5, 2, 8, seed=i) for i in range(3))
    lengths = None if lengths is None else np.asarray(lengths, np.int32)
    wanted = jax.jit(attention.BACKENDS["gpu"][1])(q, k, v, lengths)
    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", kernel)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    got = jax.jit(lambda *given: attention.attention(*given))(q, k, v, lengths)
    monkeypatch.undo()
    assert asked == [6]
    np.testing.assert_allclose(np.float32(got), np.float32(wanted), atol=1e-2)


def test_the_chosen_back_end_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    attention._say_once.cache_clear()
    q = jnp.ones((1, 4, 2, 8))
    for _ in range(2):
        attention.attention(q, q, q)
    said = "attention by xla (cuDNN attention computes in bfloat16 or float16 only)\n"
    assert capsys.readouterr().err == said


def test_splash_in_several_blocks_is_xlas_attention_forward_and_backward(monkeypatch):
    for name, tokens in {"QUERIES": 128, "KEYS": 256, "KEYS_AT_ONCE": 128}.items():
        monkeypatch.setattr(splash, name, tokens)
    segments, films, queries, keys, heads = (
        2,
        2,
        150,
        500,
        1,
    )  # padded to 2 blocks of queries, 2 of keys, each of which is multiplied in 2 parts
    shape = lambda tokens: (segments, films, tokens, heads, 128)
    q, k, v = (random(*shape(n), seed=i) for i, n in enumerate((queries, keys, keys)))
    lengths = np.asarray([[500, 200], [1, 257]], np.int32)
    weights = random(*shape(queries), seed=3, dtype=np.float32)

    def run(attend, *operands):
        """As the packed pass calls it, segments batched."""
        loss = lambda q, k, v: jnp.sum(
            weights * jax.vmap(attend)(q, k, v, lengths).astype(jnp.float32)
        )
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(*operands)

    kernel = lambda *operands: splash.splash(*operands, interpret=True)
    traced = jax.jit(run, static_argnums=0).trace(kernel, q, k, v)
    value, gradients = traced.lower().compile()(q, k, v)
    wanted, true_gradients = jax.jit(run, static_argnums=0)(
        attention.BACKENDS["tpu"][1], *(x.astype(np.float32) for x in (q, k, v))
    )
    assert abs(float(value) - float(wanted)) < 0.02 * np.linalg.norm(weights)
    for got, true in zip(gradients, true_gradients, strict=True):
        got, true = np.asarray(got, np.float32), np.asarray(true)
        assert np.linalg.norm(got - true) < 0.01 * np.linalg.norm(true)
    # Two products forward and seven backward, where scores and their gradient are computed twice.
    # Padding counts as work.
    assert sum(flops_by_kind(traced.jaxpr).values()) == pytest.approx(
        (2 + 7) * 2 * segments * films * heads * 256 * 512 * 128, rel=1e-3
    )


def test_what_splash_refuses_is_left_to_xla():
    q = jnp.ones((1, 4, 2, 64), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="multiple of 128 channels, not 64"):
        splash.splash(q, q, q)
    with pytest.raises(NotImplementedError, match="bfloat16 only"):
        splash.splash(*[jnp.ones((1, 4, 2, 128))] * 3)


def test_a_tpu_mesh_attends_by_splash_in_the_island_both_ways(monkeypatch):
    for module in (attention, ulysses):
        monkeypatch.setattr(module, "platform", lambda: "tpu")
    mesh = mesh_of_nothing(2, 2)
    attend = lambda q, k: jax.vmap(lambda q: attention.attention(q, k, k), in_axes=1, out_axes=1)(q)
    q, k = (
        jax.ShapeDtypeStruct((2, 3, 128, 4, 128), jnp.bfloat16),
        jax.ShapeDtypeStruct((2, 64, 4, 128), jnp.bfloat16),
    )
    with jax.sharding.use_abstract_mesh(mesh):
        loss = lambda q, k: jnp.sum(ulysses.over_tokens(attend)(q, k).astype(jnp.float32))
        program = str(jax.jit(jax.grad(loss, argnums=(0, 1))).trace(q, k).jaxpr)
    assert program.count("pallas_call") == 3 and "shard_map" in program
