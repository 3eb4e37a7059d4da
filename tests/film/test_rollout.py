"""The main property: a rollout of ground-truth chunks equals the packed pass, layer by layer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.rollout import chunk_pass, commit_chunk, committed, segment
from causalcine_jax.models import dit
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.cpu.kernels import differentiates, kernels
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.layer_scan import scan_layers
from causalcine_jax.models.packed import (
    Segments,
    noisy_causal,
    pool_forced,
    teacher_forced,
    transformer_pass,
)
from causalcine_jax.network_sizes import TransformerConfig

CONFIG = TransformerConfig(
    dim=36,
    ffn_dim=48,
    num_heads=3,
    num_layers=3,
    text_dim=10,
    text_len=6,
    in_dim=4,
    out_dim=4,
    freq_dim=16,
)
# Heads of 12 never use the CPU's kernel for all fields of a packed pass, heads of 32 do.
KERNEL = dataclasses.replace(CONFIG, dim=96)
CLEAN = dataclasses.replace(CONFIG, predicts="clean")
HEIGHT, WIDTH, BATCH = 4, 6, 2
# Tests that take the same shapes, memory and kind of times share a program.
MEMORY = MemoryConfig(window_chunks=1, memory_frames=2)
TIMES = np.array([300.0, 900.0], np.float32)


# Eager JAX compiles every small operation of its own: here are one jit each, and numpy.
forced = jax.jit(teacher_forced, static_argnames=("config",))
embed = jax.jit(dit.text_keys_values)
commit = jax.jit(commit_chunk, static_argnames=("memory",))


def random_model(config=CONFIG, seed=0):
    """Random weights everywhere, the zero-initialised head included."""
    model = jax.eval_shape(lambda: Transformer(config, key=jax.random.key(0)))
    rng = np.random.default_rng(seed)
    made = lambda x: jax.device_put(rng.normal(0.05, 0.25, x.shape).astype(x.dtype))
    return jax.tree.map(made, model)


def film(chunks, chunk_frames, shots=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (BATCH, chunks * chunk_frames, HEIGHT, WIDTH, CONFIG.in_dim)
    clean, noisy, text = (
        rng.normal(size=s).astype(np.float32)
        for s in (shape, shape, (BATCH, shots, 5, CONFIG.text_dim))
    )
    cut = np.stack(
        [np.arange(chunks) * shots // chunks, np.minimum(np.arange(chunks) // 2, shots - 1)]
    )
    return clean, noisy, text, cut.astype(np.int32)


def prompt_of(text, shot, i):
    """Each film of the batch may be in another shot, so chunk i's prompt is picked per film."""
    return np.take_along_axis(text, shot[:, i, None, None, None], axis=1)


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@functools.partial(jax.jit, static_argnames=("memory", "chunk_frames"))
def packed(model, clean, noisy, t, text, shot, memory, chunk_frames):
    """The packed pass with all outputs: noisy features of all layers, fields of all segments."""
    chunks = clean.shape[1] // chunk_frames
    index = jnp.concatenate([jnp.arange(chunks - 1), jnp.arange(chunks)]).astype(jnp.int32)
    times = jnp.concatenate([jnp.zeros((BATCH, chunks - 1)), jnp.full((BATCH, chunks), t)], axis=1)
    latents = jnp.concatenate([clean[:, : (chunks - 1) * chunk_frames], noisy], axis=1)
    shots = jnp.concatenate([shot[:, :-1], shot], axis=1)
    segments = Segments(latents, times, index, shots, clean=chunks - 1)
    passes = PassConfig(memory, chunk_frames, features=tuple(range(model.config.num_layers)))
    context = dit.text_keys_values(model, text)
    return transformer_pass(model, segments, context, passes, keep_field=True)


@functools.partial(jax.jit, static_argnames=("config", "frames", "chunk_frames", "memory"))
def empty_pool(config, frames, chunk_frames, memory):
    tokens = HEIGHT * WIDTH // 4
    cache = KVCache.empty(config, BATCH, frames, tokens, chunk_frames)
    return cache.described_by(memory.parts(tokens))


@functools.partial(jax.jit, static_argnames=("memory", "chunk_frames"))
def rolled(model, cache, noisy, clean, prompt, i, field, memory, chunk_frames):
    """A chunk of the rollout: its noisy pass with all outputs, and the pool with its clean chunk.

    The clean pass is under the indices of `field`: top-k is discontinuous. A short pool pads its
    fields as the packed history does.
    """
    context, passes = dit.text_keys_values(model, prompt), PassConfig(memory, chunk_frames)
    tapped = dataclasses.replace(passes, features=tuple(range(model.config.num_layers)))
    chunk = segment(noisy, 600.0, i)
    out = transformer_pass(model, chunk, context, tapped, history=cache, keep_field=True)
    if not memory.route_clean:
        return out, commit_chunk(model, cache, clean, context, i, memory=memory)
    chunk = dataclasses.replace(segment(clean, 0.0, i), field=field)
    made = transformer_pass(model, chunk, context, passes, history=cache, keep_kv=True)
    return out, committed(cache, made, i, memory)


def field_of(field, segment):
    return jax.tree.map(lambda a: a[:, segment : segment + 1], field)


@pytest.mark.parametrize(
    "policy, route_clean, chunk_frames, window, memory_frames, chunks, config",
    [
        ("camr", True, 3, 2, 4, 7, CONFIG),
        ("camr", True, 3, 2, 4, 7, KERNEL),
        ("camr", True, 3, 2, 4, 7, CLEAN),
        ("camr", True, 1, 3, 2, 9, CONFIG),  # frame-wise
        ("camr", False, 3, 1, 2, 5, CONFIG),
        ("sink", True, 3, 1, 3, 5, CONFIG),
        ("none", True, 3, 1, 3, 5, CONFIG),
        ("spread", True, 3, 1, 3, 6, CONFIG),
        ("attended", True, 3, 1, 3, 6, CONFIG),
        ("random", True, 3, 1, 3, 6, CONFIG),
        ("prompt", True, 3, 1, 3, 6, CONFIG),
        ("alike", True, 3, 1, 3, 6, CONFIG),
        ("camr", True, 3, 3, 5, 2, CONFIG),  # a history shorter than the field
        ("none", True, 3, 0, 0, 3, CONFIG),  # no history at all
        ("camr", True, 3, 0, 0, 3, KERNEL),
    ],
)
def test_rollout_of_true_chunks_equals_packed_pass(
    policy, route_clean, chunk_frames, window, memory_frames, chunks, config
):
    if config is KERNEL and kernels() is not None:
        assert differentiates(jnp.float32, config.head_dim)
    memory = MemoryConfig(
        policy=policy,
        window_chunks=window,
        memory_frames=memory_frames,
        route_clean=route_clean,
        sink_frames=1 if policy in ("prompt", "alike") else 0,
    )
    model = random_model(config)
    clean, noisy, text, shot = film(chunks, chunk_frames)
    whole = packed(model, clean, noisy, 600.0, text, shot, memory, chunk_frames)
    whole = jax.tree.map(np.asarray, whole)
    cache = empty_pool(config, chunks * chunk_frames, chunk_frames, memory)
    for i in range(chunks):
        part = slice(i * chunk_frames, (i + 1) * chunk_frames)
        chunk = noisy[:, part], clean[:, part], prompt_of(text, shot, i), np.int32(i)
        out, cache = rolled(model, cache, *chunk, field_of(whole.field, i), memory, chunk_frames)
        expected = field_of(whole.field, i + (chunks - 1 if route_clean else 0)).frame
        found = np.sort(out.field.frame, -1)[..., -expected.shape[-1] :]
        np.testing.assert_array_equal(found, np.sort(expected, -1))
        for layer in range(config.num_layers):
            apart = relative(out.features[layer], whole.features[layer][:, i : i + 1])
            assert apart <= 1e-5, (layer, i)
        assert relative(out.velocity, whole.velocity[:, part]) <= 1e-5


def test_a_network_of_clean_latents_gives_their_velocity():
    """v = (x_t - x0) / sigma, with sigma of at least 0.05, and finite at time 0."""
    clean, noisy, text, shot = film(4, 3)
    times = np.array([[800.0, 500.0, 30.0, 0.0]] * BATCH, np.float32)
    x0, velocity = (
        np.asarray(forced(random_model(config), clean, noisy, times, text, shot))
        for config in (CONFIG, CLEAN)
    )
    sigma = np.repeat(np.array([0.8, 0.5, 0.05, 0.05], np.float32), 3)[:, None, None, None]
    np.testing.assert_allclose(velocity, (noisy - x0) / sigma, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="predicts must be one of velocity, clean, not 'noise'"):
        dataclasses.replace(CONFIG, predicts="noise")


def test_several_draws_of_a_film_share_its_clean_chunks():
    model, (clean, noisy, text, shot) = random_model(), film(4, 3)
    other = np.random.default_rng(9).standard_normal(noisy.shape, np.float32)
    times = np.array([[800.0, 500.0, 30.0, 0.0], [100.0, 900.0, 600.0, 1000.0]], np.float32)
    each = [times, times[::-1]]
    both = forced(
        model, clean, np.concatenate([noisy, other], 1), np.concatenate(each, 1), text, shot
    )
    alone = [forced(model, clean, x, t, text, shot) for x, t in zip((noisy, other), each)]
    np.testing.assert_allclose(both, np.concatenate(alone, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="films of at least 6 chunks"):
        forced(model, clean, noisy[:, : 2 * 3].repeat(3, 1), 500.0, text, shot)


def test_an_input_skip_adds_a_gated_product_of_the_patches():
    model = random_model(dataclasses.replace(CONFIG, skip_dim=5))
    rng = np.random.default_rng(0)
    tokens, e, patches = (
        rng.normal(size=(1, 2, 3, width)).astype(np.float32)
        for width in (CONFIG.dim, CONFIG.dim, 4 * CONFIG.in_dim)
    )
    e, head = e[:, :, 0], jax.jit(dit.head)

    @jax.jit
    def product(model, added):
        shift, scale = jnp.moveaxis(model.head_modulation[...] + e[:, :, None], 2, 0)[..., None, :]
        gate = model.skip.gate(dit.modulated_norm(jnp.asarray(tokens), shift, scale, CONFIG.eps))
        return added(jax.nn.silu(gate) * model.skip.value(jnp.asarray(patches)))

    out, added = np.asarray(head(model, tokens, e, patches)), model.skip.out
    model.skip.out = jax.tree.map(np.zeros_like, added)
    without = np.asarray(head(model, tokens, e, patches))
    np.testing.assert_allclose(out - without, product(model, added), rtol=1e-4, atol=1e-5)
    plain = random_model(CONFIG)
    assert not hasattr(plain, "skip")


def test_a_cache_of_clean_chunks_replaces_the_clean_stream():
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    cache = empty_pool(CONFIG, 12, 3, MEMORY)
    for i in range(4):
        context = embed(model, prompt_of(text, shot, i))
        chunk = clean[:, 3 * i : 3 * i + 3]
        cache = commit(model, cache, chunk, context, np.int32(i), memory=MEMORY)
    with_stream = forced(model, clean, noisy, TIMES, text, shot, PassConfig(MEMORY))
    with_cache = jax.jit(pool_forced, static_argnames="config")(
        model, cache, noisy, TIMES, text, shot, config=PassConfig(MEMORY)
    )
    assert relative(with_cache, with_stream) <= 1e-5


def test_the_future_and_the_own_clean_copy_are_invisible():
    """Paper 3.2: noisy chunk i sees clean chunks before i and itself, nothing else."""
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    run = lambda *inputs: np.asarray(forced(model, *inputs, shot, PassConfig(MEMORY)))
    base = run(clean, noisy, TIMES, text)
    late = lambda array, first: array + (np.arange(12) >= first)[:, None, None, None]
    changed = run(np.float32(late(clean, 6)), np.float32(late(noisy, 9)), TIMES, text)
    assert np.array_equal(base[:, :9], changed[:, :9])
    assert relative(changed[:, 9:], base[:, 9:]) > 1e-3
    other_shot = run(clean, noisy, TIMES, text + np.float32([0, 1])[:, None, None])
    assert np.array_equal(base[:, :6], other_shot[:, :6])


def test_segments_in_small_groups_and_remat_change_nothing():
    model = random_model()
    clean, noisy, text, shot = film(4, 3)

    @functools.partial(jax.jit, static_argnames="passes")
    def gradient(model, clean, noisy, text, shot, passes):
        run = lambda model: teacher_forced(model, clean, noisy, 500.0, text, shot, passes)
        return jax.grad(lambda model: jnp.mean(run(model) ** 2))(model)

    plain, grouped = (
        gradient(model, clean, noisy, text, shot, passes=PassConfig(MEMORY, **how))
        for how in ({}, {"segments_at_once": 3, "remat": 1})
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(grouped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_layers_recomputed_in_groups_give_the_same_values_taps_and_gradients():
    """Parts of 5, 6 and 1 layers between taps; groups of 2 leave one, none and all of a part."""
    rng = np.random.default_rng(0)
    weights, x = (
        rng.standard_normal((12, 5, 5), np.float32) / 2,
        rng.standard_normal((3, 5), np.float32),
    )

    def run(weights, x, remat):
        layer = lambda x, w: (jnp.tanh(x @ w), jnp.sum(x))
        x, sums, taps = scan_layers(layer, x, weights, 12, (4, 10), remat)
        return jnp.sum(x**2) + jnp.sum(sums * jnp.arange(12)) + sum(jnp.sum(tap**3) for tap in taps)

    kept = [
        jax.jit(jax.value_and_grad(run, argnums=(0, 1)), static_argnums=2)(weights, x, remat)
        for remat in (0, 2, 3)
    ]
    for other in kept[1:]:
        for a, b in zip(jax.tree.leaves(kept[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_policies_and_positions_differ_only_where_memory_reaches():
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    run = lambda memory: np.asarray(
        forced(model, clean, noisy, TIMES, text, shot, PassConfig(memory))
    )
    camr = run(MEMORY)
    for other in ("sink", "none"):
        out = run(dataclasses.replace(MEMORY, policy=other))
        assert (
            relative(out[:, :6], camr[:, :6]) <= 1e-6
        )  # chunks 0 and 1: the window is the whole history
        assert relative(out[:, 9:], camr[:, 9:]) > 1e-4
    absolute = run(dataclasses.replace(MEMORY, positions="absolute"))
    assert relative(absolute[:, :6], camr[:, :6]) <= 1e-6
    assert relative(absolute[:, 9:], camr[:, 9:]) > 1e-4


def test_equality_holds_over_four_hundred_chunks_of_history():
    """Histories of 0 to 399 chunks; one token per frame and frame-wise chunks keep this cheap."""
    chunks, memory = 400, MemoryConfig(window_chunks=3, memory_frames=5)
    model = random_model(seed=3)
    rng = np.random.default_rng(4)
    clean, noisy = (
        jax.device_put(rng.normal(size=(1, chunks, 2, 2, CONFIG.in_dim)).astype(np.float32))
        for _ in range(2)
    )
    text = jax.device_put(rng.normal(size=(1, 3, 5, CONFIG.text_dim)).astype(np.float32))
    shot = jax.device_put((np.arange(chunks)[None] // 7 % 3).astype(np.int32))
    index = jax.device_put(np.r_[: chunks - 1, :chunks].astype(np.int32))

    @jax.jit
    def whole():
        times = jnp.concatenate([jnp.zeros((1, chunks - 1)), jnp.full((1, chunks), 700.0)], axis=1)
        latents = jnp.concatenate([clean[:, :-1], noisy], axis=1)
        shots = jnp.concatenate([shot[:, :-1], shot], axis=1)
        segments = Segments(latents, times, index, shots, clean=chunks - 1)
        context = dit.text_keys_values(model, text)
        return transformer_pass(model, segments, context, PassConfig(memory, 1), keep_field=True)

    packed_out = jax.tree.map(np.asarray, whole())
    by_segment = jax.tree.map(
        lambda a: np.moveaxis(a, 1, 0)[:, :, None], packed_out.field
    )  # [segment, layer, 1, b, ...]
    pad = lambda a: np.concatenate(
        [a, a[:1]]
    )  # the last chunk has no clean segment; its commit is never read
    clean_fields = jax.tree.map(lambda a: pad(a[: chunks - 1]), by_segment)
    noisy_fields = jax.tree.map(lambda a: a[chunks - 1 :], by_segment)

    @jax.jit
    def film(clean_fields, noisy_fields):
        def chunk(cache, inputs):
            i, x0, x, prompt, clean_field, noisy_field = inputs
            context = dit.text_keys_values(model, text[:, prompt][:, None])
            noisy, clean = segment(x[None], 700.0, i), segment(x0[None], 0.0, i)
            under = lambda chunk, field: dataclasses.replace(chunk, field=field)
            ask = lambda chunk, **keep: chunk_pass(model, cache, chunk, context, memory, **keep)
            velocity = ask(under(noisy, noisy_field)).velocity
            chosen = ask(noisy, keep_field=True).field.frame
            made = ask(under(clean, clean_field), keep_kv=True)
            return committed(cache, made, i, memory), (velocity, chosen)

        frames = lambda a: jnp.moveaxis(a, 1, 0)
        inputs = (
            jnp.arange(chunks, dtype=jnp.int32),
            frames(clean),
            frames(noisy),
            shot[0],
            clean_fields,
            noisy_fields,
        )
        return jax.lax.scan(chunk, KVCache.empty(CONFIG, 1, chunks, 1, 1), inputs)[1]

    velocity, chosen = map(np.asarray, film(clean_fields, noisy_fields))
    assert relative(velocity[:, 0, 0], packed_out.velocity[0]) <= 1e-5
    for i in (0, 1, 50, 399):
        assert relative(velocity[i], packed_out.velocity[:, i : i + 1]) <= 1e-5
    # Free choices agree too, except for scores that tie in float32: a handful of 1,200 decisions.
    differs = np.any(
        np.sort(chosen[:, :, 0], -1) != np.sort(noisy_fields.frame[:, :, 0], -1), axis=-1
    )
    assert np.mean(differs) <= 0.005


def test_some_noisy_chunks_alone_are_those_of_the_whole_pass():
    model, passes = random_model(), PassConfig(MEMORY)
    clean, noisy, text, shot = film(4, 3)
    whole = np.asarray(forced(model, clean, noisy, TIMES, text, shot, passes))
    last = forced(model, clean, noisy[:, 6:], TIMES, text, shot, passes)
    assert relative(last, whole[:, 6:]) <= 1e-6
    inner = forced(model, clean, noisy[:, 3:9], TIMES, text, shot, passes, first=np.int32(1))
    assert relative(inner, whole[:, 3:9]) <= 1e-6
    with pytest.raises(UsageError, match="clean has shape"):
        forced(model, clean[:, 3:], noisy, TIMES, text, shot, passes)


def test_noisy_causal_is_the_packed_pass_with_noisy_chunks_as_history():
    model = random_model()
    _, noisy, text, shot = film(4, 3)
    alone = jax.jit(functools.partial(noisy_causal, config=PassConfig(MEMORY)))(
        model, noisy, TIMES, text, shot
    )

    @jax.jit
    def with_history(model, noisy, text, shot):
        times, index = jnp.repeat(TIMES[:, None], 4, axis=1), jnp.arange(4, dtype=jnp.int32)
        before = lambda a: jnp.concatenate([a[:, :3], a], axis=1)
        segments = Segments(
            jnp.concatenate([noisy[:, :9], noisy], axis=1), before(times),
            jnp.concatenate([index[:3], index]), before(shot), clean=3,
        )  # fmt: skip
        context = dit.text_keys_values(model, text)
        return transformer_pass(model, segments, context, PassConfig(MEMORY)).velocity

    assert relative(alone, with_history(model, noisy, text, shot)) <= 1e-5
