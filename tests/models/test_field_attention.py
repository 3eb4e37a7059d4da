"""The CPU's kernel for a packed pass against attention segment by segment: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models.attention import segments as attention_segments
from causalcine_jax.models.attention.backends import _own_kernel, _xla_cpu
from causalcine_jax.models.cache.history import History
from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.models.receptive_field import describe
from causalcine_jax.models.rope import rotation

needs_kernels = pytest.mark.skipif(
    cpu_kernels.kernels() is None, reason=f"no kernels here: {cpu_kernels.missing()}"
)

CASES = {
    "long history": (1, 9, 3, (2, 3), MemoryConfig()),
    "two films, short history": (2, 4, 3, (3, 5), MemoryConfig(policy="sink")),
    "window only": (1, 5, 2, (3, 3), MemoryConfig(policy="none", window_chunks=1)),
    "more queries than a turn takes": (1, 3, 3, (10, 10), MemoryConfig()),
}


def _packed(films, chunks, chunk_frames, grid, memory, head_dim: int = 32):
    """A function of q, k, v and its arguments.

    It returns (a weighted sum of the attention, (the attention, the fields' frames)).
    """
    tokens, segments, clean = grid[0] * grid[1], 2 * chunks - 1, chunks - 1
    shape = (films, segments, chunk_frames * tokens, 2, head_dim)
    rng = np.random.default_rng(0)
    q, k, v, weight = (rng.standard_normal(shape, np.float32) for _ in range(4))
    positions = np.arange(chunk_frames - 1, -1, -1, dtype=np.int32)

    def attend(q, k, v):
        pool_k, pool_v = (x[:, :clean].reshape(films, -1, tokens, 2, head_dim) for x in (k, v))
        past = History(
            pool_k, pool_v, describe(pool_k), jnp.arange(clean * chunk_frames, dtype=jnp.int32)
        )
        config = PassConfig(memory, chunk_frames)
        index = jnp.concatenate([jnp.arange(clean), jnp.arange(chunks)]).astype(jnp.int32)
        own = rotation(jnp.asarray(positions), grid, head_dim)
        shared = attention_segments.SharedInputs(index, own, grid, clean, config)
        out, field, _ = attention_segments.attend_segments(q, k, v, past, None, shared)
        return jnp.sum(out * weight), (out, field.frame)

    return jax.jit(jax.value_and_grad(attend, argnums=(0, 1, 2), has_aux=True)), (q, k, v)


def _close(new, old):
    assert np.linalg.norm(new - np.asarray(old)) <= 1e-5 * np.linalg.norm(old)


@needs_kernels
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_packed_pass_is_the_same_as_segment_by_segment(case, monkeypatch):
    attend, operands = _packed(*case)
    (_, (out, fields)), gradients = attend(*operands)
    monkeypatch.setattr(attention_segments, "fits", lambda *_: False)
    attend, operands = _packed(*case)
    (_, (expected, expected_fields)), expected_gradients = attend(*operands)
    assert (fields == expected_fields).all()
    for new, old in zip((out, *gradients), (expected, *expected_gradients), strict=True):
        _close(new, old)


@needs_kernels
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pass_with_rounded_products_is_close(case):
    attend, operands = _packed(*case)
    (_, (expected, _)), expected_gradients = attend(*operands)
    with jax.default_matmul_precision("bfloat16"):
        (_, (out, _)), gradients = attend(*operands)
    own = cpu_kernels.kernels()
    assert own is not None
    least = 1e-4 if "bfloat16" in own.dtypes else 0
    for new, old in zip((out, *gradients), (expected, *expected_gradients), strict=True):
        difference = np.linalg.norm(new - np.asarray(old)) / np.linalg.norm(old)
        assert least <= difference <= 6e-3


@needs_kernels
@pytest.mark.parametrize("lengths", [None, (70, 9, 0)])
def test_gradients_of_attention_are_those_of_xla(lengths):
    shapes = {"q": (3, 50, 2, 32), "k": (3, 70, 2, 32), "v": (3, 70, 2, 32), "w": (3, 50, 2, 32)}
    rng = np.random.default_rng(0)
    q, k, v, weight = (rng.standard_normal(shape, np.float32) for shape in shapes.values())
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    if lengths is not None:  # without a key, XLA's result is arbitrary
        weight = weight * (np.asarray(lengths) > 0)[:, None, None, None]
    gradients = lambda attend: jax.jit(
        jax.grad(lambda *x: jnp.sum(attend(*x, lengths) * weight), argnums=(0, 1, 2))
    )(q, k, v)
    for new, old in zip(gradients(_own_kernel), gradients(_xla_cpu), strict=True):
        _close(new, old)


@needs_kernels
def test_what_the_kernel_cannot_attend_goes_segment_by_segment():
    past = lambda dtype: History(
        jnp.zeros((1, 3, 4, 2, 32), dtype),
        jnp.zeros((1, 3, 4, 2, 32), dtype),
        jnp.zeros((1, 3, 1, 2, 32)),
        jnp.arange(3),
    )
    q = jnp.zeros((1, 2, 12, 2, 32))
    assert attention_segments.fits(q, past(jnp.float32), MemoryConfig())
    assert not attention_segments.fits(q.astype(jnp.bfloat16), past(jnp.bfloat16), MemoryConfig())
    assert not attention_segments.fits(q[..., :12], past(jnp.float32), MemoryConfig())
    assert not attention_segments.fits(q, past(jnp.float32), MemoryConfig(positions="absolute"))
