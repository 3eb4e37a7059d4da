"""The CPU's own kernels against XLA's arithmetic, and the fallback where none compile."""

import functools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.film.rollout import chunk_velocity, commit_chunk, embed_prompt
from causalcine_jax.models.attention import backends as attention
from causalcine_jax.models.attention.growing_field import field_steps
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Linear, Param, cast_weights
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.network_sizes import TransformerConfig

XLA = attention.BACKENDS["cpu"][-1]


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def relative(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def attend(*operands):
    """As `attention.attention` decides at this moment, in one program."""
    return jax.jit(lambda *given: attention.attention(*given))(*operands)


by_xla = jax.jit(XLA)


@pytest.fixture
def made():
    """The kernels; skips on a machine without a compiler."""
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    return cpu_kernels.kernels()


def needs_bfloat16(made):
    if "bfloat16" not in made.dtypes:
        pytest.skip("this processor has no products of bfloat16")


@pytest.fixture
def unmade(monkeypatch, tmp_path):
    """As at a first start, with an empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cpu_kernels.SWITCH, raising=False)
    cpu_kernels._loaded.cache_clear()
    yield tmp_path / "causalcine_jax"
    cpu_kernels._loaded.cache_clear()


@pytest.mark.parametrize(
    "films, queries, keys, heads, dim, lengths",
    [
        (2, 50, 67, 2, 16, (67, 3)),  # one block each, whose ends are ragged
        (1, 301, 700, 1, 32, (555,)),  # several blocks of both
        (3, 1, 1, 1, 8, (1, 1, 1)),
        (1, 96, 256, 4, 128, (256,)),  # whole blocks
    ],
)
def test_attention_is_xlas(made, films, queries, keys, heads, dim, lengths):
    q, k, v = (random(films, n, heads, dim, seed=i) for i, n in enumerate((queries, keys, keys)))
    lengths = np.asarray(lengths, np.int32)
    wanted = by_xla(q, k, v, lengths)
    assert relative(attend(q, k, v, lengths), wanted) < 2e-6
    beyond = np.arange(keys)[None, :, None, None] >= lengths[:, None, None, None]
    nan = np.float32(np.nan)
    untouched = attend(q, np.where(beyond, nan, k), np.where(beyond, nan, v), lengths)
    assert relative(untouched, wanted) < 2e-6  # what is beyond a length is not read
    if "bfloat16" in made.dtypes:
        rounded = [x.astype(jnp.bfloat16) for x in (q, k, v)]
        assert relative(attend(*rounded, lengths), wanted) < 1e-2


def test_attention_of_large_scores_of_none_and_of_nan(made):
    q, k, v = (random(1, 20, 1, 8, seed=i) for i in range(3))
    assert relative(attend(300 * q, k, v), by_xla(300 * q, k, v, None)) < 2e-5
    assert not np.any(attend(q, k, v, np.zeros((1,), np.int32)))
    for place in range(3):
        broken = [x.copy() for x in (q, k, v)]
        broken[place][0, 5, 0, 3] = np.nan
        assert np.isnan(attend(*broken)).any()


def test_attention_of_batched_segments_and_its_gradient_are_xlas(made):
    q, k, v = (random(3, 2, n, 2, 8, seed=i) for i, n in enumerate((5, 9, 9)))
    lengths = jax.device_put(np.array([[3, 9], [2, 1], [9, 9]], np.int32))
    weights = random(3, 2, 5, 2, 8, seed=5)

    def run(attend):
        loss = lambda q, k, v: jnp.sum(weights * jax.vmap(attend)(q, k, v, lengths))
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for ours, theirs in zip(
        jax.tree.leaves(run(attention.attention)), jax.tree.leaves(run(XLA)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_the_kernels_refuse_is_left_to_xla(made):
    q = random(1, 3, 1, 12)
    with pytest.raises(NotImplementedError, match="multiple of"):
        jax.jit(cpu_kernels.flash_attention)(*[q[..., :2]] * 3, np.array([3], np.int32))
    with pytest.raises(NotImplementedError, match="not float16"):
        jax.jit(cpu_kernels.flash_attention)(*[q.astype(np.float16)] * 3, np.array([3], np.int32))
    half = attend(*[q.astype(np.float16)] * 3)
    assert half.dtype == np.float16 and relative(half, by_xla(q, q, q, None)) < 1e-2


@pytest.mark.parametrize(
    "rows, inner, columns", [(25, 64, 96), (7, 51, 33), (1, 1, 1), (24, 130, 2100)]
)
def test_a_linear_layer_in_bfloat16_is_xlas(made, rows, inner, columns):
    needs_bfloat16(made)
    x = random(2, rows, inner)
    make = lambda key: Linear(inner, columns, key=key)
    layer = cast_weights(random_weights(make, 0), jnp.bfloat16)

    def in_float32(layer, x):
        y = jnp.einsum(
            "bti,io->bto",
            x.astype(jnp.bfloat16).astype(jnp.float32),
            layer.weight[...].astype(jnp.float32),
        )
        return y + layer.bias[...].astype(jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(product, layer, x):
        def run(layer, x):
            y = product(layer, x)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        gradients, y = jax.grad(run, argnums=(0, 1), has_aux=True)(layer, x)
        return y, gradients

    ours, gradients = value_and_gradients(Linear.__call__, layer, x)
    theirs, true_gradients = value_and_gradients(in_float32, layer, x)
    assert ours.dtype == jnp.bfloat16
    assert relative(ours, np.asarray(theirs).astype(jnp.bfloat16)) < 1e-3  # rounded once
    without = random_weights(lambda key: Linear(inner, columns, key=key, bias=False), 0)
    without.weight = layer.weight
    plain = np.asarray(jax.jit(Linear.__call__)(without, x), np.float32)
    assert relative(plain + np.asarray(layer.bias[...], np.float32), ours) < 1e-2
    for got, true in zip(*map(jax.tree.leaves, (gradients, true_gradients)), strict=True):
        assert relative(got, true) < 2e-2


def test_a_film_by_the_kernels_is_the_film_by_xla(made, monkeypatch):
    """A field that grows from nothing to full, and the packed pass."""
    config = TransformerConfig(
        dim=48,
        ffn_dim=64,
        num_heads=3,
        num_layers=2,
        text_dim=10,
        text_len=6,
        in_dim=4,
        out_dim=4,
        freq_dim=16,
    )
    shapes = jax.eval_shape(lambda: Transformer(config, key=jax.random.key(0)))
    rng = np.random.default_rng(0)
    made = lambda x: jax.device_put(rng.normal(0.05, 0.2, x.shape).astype(x.dtype))
    model = jax.tree.map(made, shapes)
    chunks, memory = 7, MemoryConfig(window_chunks=2, memory_frames=4)
    clean, text = random(1, 3 * chunks, 4, 6, 4), random(1, 1, 5, 10, seed=1)

    def film():
        cache, velocities, context = (
            KVCache.empty(config, 1, 3 * chunks, 6),
            [],
            jax.jit(embed_prompt)(model, text[:, 0]),
        )
        see, keep = (
            jax.jit(lambda *given: chunk_velocity(*given, memory=memory)),
            jax.jit(lambda *given: commit_chunk(*given, memory=memory)),
        )
        for index in range(chunks):
            chunk = clean[:, 3 * index : 3 * index + 3]
            velocities.append(see(model, cache, chunk, 400.0, context, np.int32(index)))
            cache = keep(model, cache, chunk, context, np.int32(index))
        shots = np.zeros((1, chunks), np.int32)
        packed = jax.jit(lambda *given: teacher_forced(*given, PassConfig(memory)))(
            model, clean, clean, 400.0, text, shots
        )
        return np.concatenate(velocities, axis=1), packed

    ours, packed = film()
    assert relative(ours, packed) < 1e-5
    monkeypatch.setitem(attention.BACKENDS, "cpu", (XLA,))
    by_xla, packed_by_xla = film()
    assert relative(ours, by_xla) < 1e-5 and relative(packed, packed_by_xla) < 1e-5


def test_a_field_grows_in_few_steps_of_whole_chunks():
    assert field_steps(9, 3) == [3, 6, 9]
    assert field_steps(14, 3) == [3, 6, 9, 12, 14]
    assert field_steps(63, 3) == [12, 24, 36, 48, 60, 63]
    assert field_steps(2, 3) == [2]


def test_kernels_are_made_once_and_damaged_ones_again(made, unmade, monkeypatch):
    """Also where two processes, here threads, start together."""
    monkeypatch.setattr(cpu_kernels, "FLAGS", (*cpu_kernels.FLAGS, "-O0"))  # quick to make
    compiler = next(filter(None, map(shutil.which, cpu_kernels.COMPILERS)))
    file = cpu_kernels._folder() / f"kernels-{cpu_kernels._fingerprint(compiler)}.so"
    file.write_bytes(b"no library")
    compiled, compile_ = [], cpu_kernels._compile
    monkeypatch.setattr(
        cpu_kernels, "_compile", lambda *given: compiled.append(given) or compile_(*given)
    )
    with ThreadPoolExecutor(2) as both:
        for library in both.map(cpu_kernels._library, [compiler] * 2):
            assert library.causalcine_rows() == made.rows
    assert compiled == [(compiler, file)]
    size, written = file.stat().st_size, file.stat().st_mtime_ns
    assert size > 1000 and list(unmade.iterdir()) == [file]
    assert (
        cpu_kernels._library(compiler).causalcine_rows() == made.rows
        and file.stat().st_mtime_ns == written
    )


def test_without_a_compiler_or_a_place_xla_attends(unmade, monkeypatch, tmp_path):
    q = random(1, 5, 1, 8)
    wanted = by_xla(q, q, q, None)

    def path() -> str:
        cpu_kernels._loaded.cache_clear()
        np.testing.assert_array_equal(attend(q, q, q), wanted)
        assert not cpu_kernels.multiplies(jnp.bfloat16)
        return cpu_kernels.path_in_use()

    with monkeypatch.context() as patch:
        patch.setattr(cpu_kernels, "COMPILERS", ("no-such-compiler",))
        assert path() == "XLA (no C++ compiler: none of no-such-compiler was found)"
    with monkeypatch.context() as patch:
        patch.setattr(cpu_kernels, "FLAGS", ("--no-such-flag",))
        assert "could not make them" in path()
    with monkeypatch.context() as patch:
        patch.setenv(cpu_kernels.SWITCH, "0")
        assert path() == f"XLA ({cpu_kernels.SWITCH}=0)"
    unmade.mkdir(exist_ok=True)
    os.chmod(unmade, 0o777)
    assert "can be written by other users" in path()
    unmade.rmdir()
    unmade.write_text("a file in the folder's place")
    assert "could not make them" in path()


def test_products_are_rounded_where_jax_is_asked_to():
    """Values and gradients are products of bfloat16 summed in float32; XLA on CPUs ignores it."""
    layer = random_weights(lambda key: Linear(24, 16, key=key), 0)
    x, gradient = random(2, 3, 24, seed=1), random(2, 3, 16, seed=2)

    def with_weight(layer, weight):
        layer = jax.tree.map(lambda leaf: leaf, layer)
        layer.weight = Param(weight)
        return layer

    @jax.jit
    def products(layer, x):
        y, back = jax.vjp(lambda weight, x: with_weight(layer, weight)(x), layer.weight[...], x)
        return y, *back(gradient)

    rounded = lambda a: np.asarray(a.astype(jnp.bfloat16), np.float64)
    weight = np.asarray(layer.weight[...])
    wanted = (
        rounded(x) @ rounded(weight) + np.asarray(layer.bias[...]),
        np.einsum("bti,bto->io", rounded(x), rounded(gradient)),
        rounded(gradient) @ rounded(weight).T,
    )
    exact = products(layer, x)
    with jax.default_matmul_precision("bfloat16"):
        found = products(layer, x)
        kept = jax.jit(lambda layer, x: layer(x, "highest"))(layer, x)
    for ours, expected, other in zip(found, wanted, exact, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
        assert not np.allclose(other, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kept, exact[0], rtol=1e-5, atol=1e-5)
