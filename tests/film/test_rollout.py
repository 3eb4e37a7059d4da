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
from causalcine_jax.models.nn import Linear
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
TIMES = jnp.asarray([300.0, 900.0])


# Eager JAX compiles every small operation of its own; one jit each keeps these tests quick.
forced = jax.jit(teacher_forced, static_argnames=("config",))
embed = jax.jit(dit.text_keys_values)
pass_of = jax.jit(transformer_pass, static_argnames=("config", "keep_kv", "keep_field"))
commit = jax.jit(commit_chunk, static_argnames=("memory",))


def random_model(config=CONFIG, seed=0):
    """Random weights everywhere, the zero-initialised head included."""
    model = jax.eval_shape(lambda: Transformer(config, key=jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0.05, 0.25, x.shape), x.dtype), model)


def film(chunks, chunk_frames, shots=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (BATCH, chunks * chunk_frames, HEIGHT, WIDTH, CONFIG.in_dim)
    clean, noisy, text = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in (shape, shape, (BATCH, shots, 5, CONFIG.text_dim))
    )
    cut = np.stack(
        [np.arange(chunks) * shots // chunks, np.minimum(np.arange(chunks) // 2, shots - 1)]
    )
    return clean, noisy, text, jnp.asarray(cut, jnp.int32)


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@functools.partial(jax.jit, static_argnames=("memory", "chunk_frames"))
def packed(model, clean, noisy, t, text, shot, memory, chunk_frames):
    """The packed pass with all outputs: noisy features of all layers, fields of all segments."""
    chunks = clean.shape[1] // chunk_frames
    index = jnp.concatenate([jnp.arange(chunks - 1), jnp.arange(chunks)]).astype(jnp.int32)
    times = jnp.concatenate([jnp.zeros((BATCH, chunks - 1)), jnp.full((BATCH, chunks), t)], axis=1)
    latents = jnp.concatenate([clean[:, : (chunks - 1) * chunk_frames], noisy], axis=1)
    shots = jnp.concatenate([shot[:, :-1], shot], axis=1)
    segments = Segments(latents, times, index, shots, clean=chunks - 1)
    passes = PassConfig(memory, chunk_frames, features=tuple(range(CONFIG.num_layers)))
    context = dit.text_keys_values(model, text)
    return transformer_pass(model, segments, context, passes, keep_field=True)


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

    tokens = HEIGHT * WIDTH // 4
    cache = KVCache.empty(config, BATCH, chunks * chunk_frames, tokens, chunk_frames)
    cache = cache.described_by(memory.parts(tokens))
    for i in range(chunks):
        # Each film of the batch may be in another shot, so the context picks per element.
        pick = jnp.take_along_axis(text, shot[:, i, None, None, None], axis=1)
        context = embed(model, pick)
        part = slice(i * chunk_frames, (i + 1) * chunk_frames)
        passes = PassConfig(memory, chunk_frames)
        tapped = dataclasses.replace(passes, features=tuple(range(CONFIG.num_layers)))
        noisy_chunk = segment(noisy[:, part], 600.0, i)
        out = pass_of(model, noisy_chunk, context, tapped, history=cache, keep_field=True)
        expected = field_of(whole.field, i + (chunks - 1 if route_clean else 0))
        assert jnp.array_equal(
            jnp.sort(out.field.frame, -1)[..., -expected.frame.shape[-1] :],
            jnp.sort(expected.frame, -1),
        )
        for layer in range(CONFIG.num_layers):
            assert relative(out.features[layer], whole.features[layer][:, i : i + 1]) <= 1e-5, (
                layer,
                i,
            )
        assert relative(out.velocity, whole.velocity[:, part]) <= 1e-5
        if i == chunks - 1:
            break
        if route_clean:
            # Under the same indices: top-k is discontinuous. A short pool pads its fields as the
            # packed history does.
            clean_chunk = segment(clean[:, part], 0.0, i)
            clean_chunk = dataclasses.replace(clean_chunk, field=field_of(whole.field, i))
            made = pass_of(model, clean_chunk, context, passes, history=cache, keep_kv=True)
            cache = committed(cache, made, i, memory)
        else:
            cache = commit(model, cache, clean[:, part], context, i, memory=memory)


def test_a_network_of_clean_latents_gives_their_velocity():
    """v = (x_t - x0) / sigma, with sigma of at least 0.05, and finite at time 0."""
    clean, noisy, text, shot = film(4, 3)
    times = jnp.asarray([[800.0, 500.0, 30.0, 0.0]] * BATCH)
    x0, velocity = (
        forced(random_model(config), clean, noisy, times, text, shot) for config in (CONFIG, CLEAN)
    )
    sigma = jnp.repeat(jnp.asarray([0.8, 0.5, 0.05, 0.05]), 3)[:, None, None, None]
    np.testing.assert_allclose(velocity, (noisy - x0) / sigma, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="predicts must be one of velocity, clean, not 'noise'"):
        dataclasses.replace(CONFIG, predicts="noise")


def test_several_draws_of_a_film_share_its_clean_chunks():
    model, (clean, noisy, text, shot) = random_model(), film(4, 3)
    other = jax.random.normal(jax.random.key(9), noisy.shape)
    times = jnp.asarray([[800.0, 500.0, 30.0, 0.0], [100.0, 900.0, 600.0, 1000.0]])
    each = [times, times[::-1]]
    both = forced(
        model, clean, jnp.concatenate([noisy, other], 1), jnp.concatenate(each, 1), text, shot
    )
    alone = [forced(model, clean, x, t, text, shot) for x, t in zip((noisy, other), each)]
    np.testing.assert_allclose(both, jnp.concatenate(alone, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="films of at least 6 chunks"):
        forced(model, clean, both[:, : 6 * 3], 500.0, text, shot)


def test_an_input_skip_adds_a_gated_product_of_the_patches():
    model = random_model(dataclasses.replace(CONFIG, skip_dim=5))
    rng = np.random.default_rng(0)
    tokens, e, patches = (
        jnp.asarray(rng.normal(size=(1, 2, 3, width)), jnp.float32)
        for width in (CONFIG.dim, CONFIG.dim, 4 * CONFIG.in_dim)
    )
    e = e[:, :, 0]
    skip, out = model.skip, dit.head(model, tokens, e, patches)
    skip.out, added = Linear(5, out.shape[-1], key=jax.random.key(0), std=0.0), skip.out
    without = dit.head(model, tokens, e, patches)
    shift, scale = jnp.moveaxis(model.head_modulation[...] + e[:, :, None], 2, 0)[..., None, :]
    gate = skip.gate(dit.modulated_norm(tokens, shift, scale, CONFIG.eps))
    wanted = added(jax.nn.silu(gate) * skip.value(patches))
    np.testing.assert_allclose(out - without, wanted, rtol=1e-4, atol=1e-5)
    plain = random_model(CONFIG)
    assert not hasattr(plain, "skip")


def test_a_cache_of_clean_chunks_replaces_the_clean_stream():
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    cache = KVCache.empty(CONFIG, BATCH, 12, HEIGHT * WIDTH // 4)
    for i in range(4):
        pick = jnp.take_along_axis(text, shot[:, i, None, None, None], axis=1)
        cache = commit(
            model, cache, clean[:, 3 * i : 3 * i + 3], embed(model, pick), i, memory=MEMORY
        )
    with_stream = forced(model, clean, noisy, TIMES, text, shot, PassConfig(MEMORY))
    with_cache = jax.jit(pool_forced, static_argnames="config")(
        model, cache, noisy, TIMES, text, shot, config=PassConfig(MEMORY)
    )
    assert relative(with_cache, with_stream) <= 1e-5


def test_the_future_and_the_own_clean_copy_are_invisible():
    """Paper 3.2: noisy chunk i sees clean chunks before i and itself, nothing else."""
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    run = lambda *inputs: forced(model, *inputs, shot, PassConfig(MEMORY))
    base = run(clean, noisy, TIMES, text)
    changed = run(clean.at[:, 6:].add(1.0), noisy.at[:, 9:].add(1.0), TIMES, text)
    assert jnp.array_equal(base[:, :9], changed[:, :9])
    assert relative(changed[:, 9:], base[:, 9:]) > 1e-3
    other_shot = run(clean, noisy, TIMES, text.at[:, 1].add(1.0))
    assert jnp.array_equal(base[:, :6], other_shot[:, :6])


def test_segments_in_small_groups_and_remat_change_nothing():
    model = random_model()
    clean, noisy, text, shot = film(4, 3)
    loss = lambda m, **how: jnp.mean(
        teacher_forced(
            m,
            clean,
            noisy,
            500.0,
            text,
            shot,
            PassConfig(MEMORY, **how),
        )
        ** 2
    )
    plain = jax.jit(jax.grad(loss))(model)
    grouped = jax.jit(jax.grad(lambda m: loss(m, segments_at_once=3, remat=1)))(model)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(grouped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_layers_recomputed_in_groups_give_the_same_values_taps_and_gradients():
    """Parts of 5, 6 and 1 layers between taps; groups of 2 leave one, none and all of a part."""
    weights, x = (
        jax.random.normal(jax.random.key(0), (12, 5, 5)) / 2,
        jax.random.normal(jax.random.key(1), (3, 5)),
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
    run = lambda memory: forced(model, clean, noisy, TIMES, text, shot, PassConfig(memory))
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
        jnp.asarray(rng.normal(size=(1, chunks, 2, 2, CONFIG.in_dim)), jnp.float32)
        for _ in range(2)
    )
    text = jnp.asarray(rng.normal(size=(1, 3, 5, CONFIG.text_dim)), jnp.float32)
    shot = jnp.asarray(np.arange(chunks)[None] // 7 % 3, jnp.int32)
    index = jnp.concatenate([jnp.arange(chunks - 1), jnp.arange(chunks)]).astype(jnp.int32)

    @jax.jit
    def whole():
        times = jnp.concatenate([jnp.zeros((1, chunks - 1)), jnp.full((1, chunks), 700.0)], axis=1)
        latents = jnp.concatenate([clean[:, :-1], noisy], axis=1)
        shots = jnp.concatenate([shot[:, :-1], shot], axis=1)
        segments = Segments(latents, times, index, shots, clean=chunks - 1)
        context = dit.text_keys_values(model, text)
        return transformer_pass(model, segments, context, PassConfig(memory, 1), keep_field=True)

    packed_out = whole()
    by_segment = jax.tree.map(
        lambda a: jnp.moveaxis(a, 1, 0)[:, :, None], packed_out.field
    )  # [segment, layer, 1, b, ...]
    pad = lambda a: jnp.concatenate(
        [a, a[:1]]
    )  # the last chunk has no clean segment; its commit is never read
    clean_fields = jax.tree.map(lambda a: pad(a[: chunks - 1]), by_segment)
    noisy_fields = jax.tree.map(lambda a: a[chunks - 1 :], by_segment)

    @jax.jit
    def film():
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

    velocity, chosen = film()
    assert relative(velocity[:, 0, 0], packed_out.velocity[0]) <= 1e-5
    for i in (0, 1, 50, 399):
        assert relative(velocity[i], packed_out.velocity[:, i : i + 1]) <= 1e-5
    # Free choices agree too, except for scores that tie in float32: a handful of 1,200 decisions.
    differs = jnp.any(
        jnp.sort(chosen[:, :, 0], -1) != jnp.sort(noisy_fields.frame[:, :, 0], -1), axis=-1
    )
    assert float(jnp.mean(differs)) <= 0.005


def test_some_noisy_chunks_alone_are_those_of_the_whole_pass():
    model, passes = random_model(), PassConfig(MEMORY)
    clean, noisy, text, shot = film(4, 3)
    whole = forced(model, clean, noisy, TIMES, text, shot, passes)
    last = forced(model, clean, noisy[:, 6:], TIMES, text, shot, passes)
    assert relative(last, whole[:, 6:]) <= 1e-6
    inner = forced(model, clean, noisy[:, 3:9], TIMES, text, shot, passes, first=jnp.int32(1))
    assert relative(inner, whole[:, 3:9]) <= 1e-6
    with pytest.raises(UsageError, match="clean has shape"):
        teacher_forced(model, clean[:, 3:], noisy, TIMES, text, shot, passes)


def test_noisy_causal_is_the_packed_pass_with_noisy_chunks_as_history():
    model = random_model()
    _, noisy, text, shot = film(4, 3)
    alone = jax.jit(functools.partial(noisy_causal, config=PassConfig(MEMORY)))(
        model, noisy, TIMES, text, shot
    )
    times, index = jnp.repeat(TIMES[:, None], 4, axis=1), jnp.arange(4, dtype=jnp.int32)
    before = lambda a: jnp.concatenate([a[:, :3], a], axis=1)
    segments = Segments(
        jnp.concatenate([noisy[:, :9], noisy], axis=1), before(times),
        jnp.concatenate([index[:3], index]), before(shot), clean=3,
    )  # fmt: skip
    same = pass_of(model, segments, dit.text_keys_values(model, text), PassConfig(MEMORY)).velocity
    assert relative(alone, same) <= 1e-5
