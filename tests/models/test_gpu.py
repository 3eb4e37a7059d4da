"""On an NVIDIA GPU alone: its kernels against XLA's or float32, and the same numbers every time."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.film import rollout
from causalcine_jax.models import dit
from causalcine_jax.models.attention import backends as attention
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.float8 import quantize_blocks
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.packed import teacher_forced, whole_film
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig

pytestmark = pytest.mark.gpu
SIZES = TransformerConfig(dim=256, ffn_dim=512, num_heads=4, num_layers=3, text_dim=32, text_len=16)
CHUNKS, SIDE = 6, 8


def relative(a, b):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def model():
    """A transformer in float32 whose head answers."""
    made = dit.Transformer(SIZES, key=jax.random.key(0))
    made.head.weight[...] = 0.05 * jax.random.normal(jax.random.key(1), made.head.weight.shape)
    return made


@pytest.fixture(scope="module")
def film():
    """(clean latents, noisy latents, text, shot of every chunk)."""
    clean, noisy = jax.random.normal(jax.random.key(2), (2, 1, 3 * CHUNKS, SIDE, SIDE, 16))
    text = jax.random.normal(jax.random.key(3), (1, 1, 12, 32))
    return clean, noisy, text, jnp.zeros((1, CHUNKS), jnp.int32)


def test_cudnn_attention_with_lengths_agrees_with_xla():
    keys = jax.random.split(jax.random.key(0), 3)
    for length in (512, 511):  # odd keys are padded
        q, k, v = (
            jax.random.normal(key, (2, 3, tokens, 4, 64), jnp.bfloat16)
            for key, tokens in zip(keys, (96, length, length), strict=True)
        )
        lengths = jnp.asarray([[length, 96, 300], [97, 509, 128]], jnp.int32)

        def run(backend, q=q, k=k, v=v, lengths=lengths):
            loss = lambda q, k, v: jnp.sum(
                jnp.sin(jax.vmap(backend)(q, k, v, lengths).astype(jnp.float32))
            )
            return jax.vmap(backend)(q, k, v, lengths), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

        cudnn, xla = (run(backend) for backend in attention.BACKENDS["gpu"])
        assert relative(cudnn[0], xla[0]) <= 2e-2
        for got, expected in zip(cudnn[1], xla[1], strict=True):
            assert relative(got, expected) <= 3e-2


def test_packed_pass_in_bfloat16_is_close_to_float32(model, film):
    clean, noisy, text, shot = film
    # With nothing to retrieve, both precisions see the same frames.
    config = PassConfig(MemoryConfig(policy="sink", memory_frames=3))
    run = lambda m: teacher_forced(m, clean, noisy, 500.0, text, shot, config)
    assert relative(run(cast_weights(model, jnp.bfloat16)), run(model)) <= 2e-2


def rolled(model, film, kv_dtype="same"):
    """Each chunk's velocity at t = 500 and field, after the commits of the clean ones before it."""
    clean, noisy, text, _ = film
    memory, context = MemoryConfig(), rollout.embed_prompt(model, text[:, 0])
    dtype = model.patch_embedding.weight[...].dtype
    tokens = (SIDE // 2) ** 2
    cache = KVCache.empty(SIZES, 1, 3 * CHUNKS, tokens, 3, dtype, kv_dtype)
    run = jax.jit(partial(rollout.chunk_pass, memory=memory, keep_field=True))
    velocities, fields = [], []
    for chunk in range(CHUNKS):
        part, index = slice(3 * chunk, 3 * chunk + 3), jnp.int32(chunk)
        out = run(model, cache, rollout.segment(noisy[:, part], 500.0, index), context)
        velocities.append(out.velocity)
        fields.append(np.asarray(out.field.frame[:, 0, 0]))
        cache = rollout.commit(model, cache, clean[:, part], context, index, memory=memory)
    return jnp.concatenate(velocities, axis=1), np.stack(fields)


def test_denoise_and_commit_are_the_packed_pass_and_near_ties_are_few(model, film):
    """Near-ties may retrieve other frames in bfloat16; the print says how many did."""
    clean, noisy, text, shot = film
    half = cast_weights(model, jnp.bfloat16)
    packed = teacher_forced(half, clean, noisy, 500.0, text, shot, PassConfig(MemoryConfig()))
    streamed, fields = rolled(half, film)
    _, exact = rolled(model, film)
    other = float(np.mean(np.sort(fields, axis=-1) != np.sort(exact, axis=-1)))
    print(f"fields' entries that bfloat16 chooses otherwise than float32: {other:.2%}")
    assert relative(streamed, packed) <= 5e-2 and other <= 0.2


def test_a_pool_of_int8_changes_velocities_little(model, film):
    half = cast_weights(model, jnp.bfloat16)
    assert relative(rolled(half, film, "int8")[0], rolled(half, film)[0]) <= 5e-2


def test_float8_matrices_answer_about_the_same(model, film):
    half = cast_weights(model, jnp.bfloat16)
    x, text = film[0][:, :3], film[2][:, 0]
    run = jax.jit(whole_film)
    distance = relative(run(quantize_blocks(half), x, 500.0, text), run(half, x, 500.0, text))
    assert 1e-3 < distance < 0.1


def test_decoding_in_bfloat16_is_close_to_float32_and_a_stream_is_the_whole():
    config = VAEConfig(dim=32)
    vae = jax.jit(lambda: VAE(config, key=jax.random.key(4)))()
    vae = jax.tree.map(
        lambda a: a + 0.02 * jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), vae
    )
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), vae)
    latents = jax.random.normal(jax.random.key(5), (1, 6, 8, 8, 16))
    whole = vae.decode(latents)
    assert relative(half.decode(latents.astype(jnp.bfloat16)), whole) <= 5e-2
    first, cache = vae.decode_first(latents[:, :3])
    second, _ = vae.decode_next(cache, latents[:, 3:])
    assert relative(jnp.concatenate([first, second], axis=1), whole) <= 1e-3


def test_a_chunk_and_its_gradient_are_the_same_bits_every_time(model, film):
    clean, noisy, text, shot = film
    half = cast_weights(model, jnp.bfloat16)
    context = rollout.embed_prompt(half, text[:, 0])
    cache = KVCache.empty(SIZES, 1, 3 * CHUNKS, (SIDE // 2) ** 2, 3, jnp.bfloat16)
    chunk = lambda: rollout.denoise(
        half,
        cache,
        noisy[:, :3],
        context,
        jnp.int32(0),
        jax.random.key(0),
        sampler=SamplerConfig("few_step", steps=4, shift=5.0, guidance=1.0),
        memory=MemoryConfig(),
    )[0]
    assert np.array_equal(chunk(), chunk())
    config = dataclasses.replace(PassConfig(MemoryConfig()), remat=True)

    @jax.jit
    def gradient(model):
        run = lambda m: teacher_forced(m, clean, noisy, 500.0, text, shot, config)
        return jax.grad(lambda m: jnp.sum(run(m).astype(jnp.float32) ** 2))(model)

    once, again = (jax.tree.leaves(gradient(half)) for _ in range(2))
    differ = sum(not np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    # cuDNN's attention adds its gradients by atomics unless the flag forbids it (docs/training.md).
    print(f"{differ} of {len(once)} arrays of gradients differ between two runs")
    for a, b in zip(once, again, strict=True):
        assert np.array_equal(a, b) or relative(a, b) <= 1e-2
