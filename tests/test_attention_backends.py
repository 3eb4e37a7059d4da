"""What cuDNN is asked for, seen without a GPU: its place is taken by XLA's attention, which refuses what cuDNN's backward pass does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.models import attention


def test_cudnn_is_given_even_lengths_and_both_of_them_batched(monkeypatch):
    asked, xla = [], jax.nn.dot_product_attention

    def kernel(q, k, v, *, query_seq_lengths=None, key_value_seq_lengths=None, implementation):
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0 and implementation == "cudnn"
        asked.append((q.shape[1], jnp.shape(query_seq_lengths), jnp.shape(key_value_seq_lengths)))
        # Under vmap both are batched or neither is, or cuDNN's rule for batches cannot join them.
        assert isinstance(query_seq_lengths, jax.core.Tracer) == isinstance(key_value_seq_lengths, jax.core.Tracer)
        return xla(q, k, v, query_seq_lengths=query_seq_lengths, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", kernel)
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 3, length, 2, 8), jnp.bfloat16) for key, length in zip(keys, (5, 6, 6), strict=True))
    lengths = jnp.asarray([[6, 2, 4], [1, 5, 3]], jnp.int32)
    out = jax.vmap(attention.BACKENDS["gpu"][0])(q, k, v, lengths)
    monkeypatch.undo()
    np.testing.assert_allclose(np.float32(out), np.float32(jax.vmap(attention.BACKENDS["gpu"][1])(q, k, v, lengths)), atol=1e-2)
    assert asked == [(6, (3,), (3,))]
    with pytest.raises(NotImplementedError, match="even number of keys"):
        attention.BACKENDS["gpu"][0](q[0], k[0, :, :5], v[0, :, :5], None)
