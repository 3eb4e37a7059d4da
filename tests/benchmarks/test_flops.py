"""FLOPs, against counts by hand on small numbers and against XLA's cost analysis."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny_training import tiny_config

from benchmarks.flops import (
    FilmFlops,
    Flops,
    chip_of,
    peak,
    segments,
    text_encoder_flops,
)
from benchmarks.update_flops import update_flops
from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models.attention import backends as attention
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import noisy_causal, pool_forced, teacher_forced
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.training.config import DMDConfig, OptimConfig, SelfForcingConfig
from causalcine_jax.training.stages.spec import stage_spec

# One layer: XLA counts the body of a loop once.
ONE_LAYER = TransformerConfig(
    dim=128, ffn_dim=320, num_heads=2, num_layers=1, text_dim=48, text_len=20, freq_dim=32
)
FILMS = FilmFlops(ONE_LAYER, MemoryConfig("camr", 1, 2), films=2, chunks=4, tokens=6, shots=2)
ABSTRACT = jax.eval_shape(lambda: Transformer(ONE_LAYER, key=jax.random.key(0)))


@pytest.fixture(autouse=True)
def xlas_products(monkeypatch):
    """Disables the CPU's kernels: XLA's cost analysis does not see inside them."""
    monkeypatch.setitem(attention.BACKENDS, "cpu", (attention.BACKENDS["cpu"][-1],))


def counted(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def film(chunks: int = FILMS.chunks):
    return jax.ShapeDtypeStruct((FILMS.films, 3 * chunks, 4, 6, 16), jnp.float32)


TEXT = jax.ShapeDtypeStruct((FILMS.films, FILMS.shots, 20, 48), jnp.float32)
SHOTS = jax.ShapeDtypeStruct((FILMS.films, FILMS.chunks), jnp.int32)


def test_a_segment_by_hand():
    config = TransformerConfig(
        dim=4,
        ffn_dim=3,
        num_heads=2,
        num_layers=2,
        text_dim=5,
        text_len=7,
        in_dim=1,
        out_dim=2,
        freq_dim=6,
    )
    # Two segments of 10 tokens that attend to 10 and 16; one of them is read.
    projections, feed_forward = 2 * 20 * 6 * 16, 2 * 20 * 2 * 4 * 3
    patches, velocity, time = 20 * 4 * 4, 10 * 4 * 8, 2 * (6 * 4 + 4 * 4 + 4 * 24)
    scores_and_values = 2 * 2 * 10 * 4 * (10 + 16 + 2 * 7)
    assert segments(config, 10, [10, 16], read=1) == Flops(
        2 * (projections + feed_forward + patches + velocity + time), 2 * scores_and_values
    )
    films = FilmFlops(
        config,
        MemoryConfig(window_chunks=2, memory_frames=4),
        films=1,
        chunks=9,
        tokens=10,
        shots=3,
    )
    assert [films.keys(i) // 10 for i in range(6)] == [3, 6, 9, 12, 13, 13]
    assert [
        dataclasses.replace(films, memory=MemoryConfig("none", 1)).keys(i) // 10 for i in range(3)
    ] == [3, 6, 6]
    assert (
        dataclasses.replace(films, memory=MemoryConfig(route_clean=False)).keys(8, clean=True)
        == 27 * 10
    )
    assert films.prompts() == Flops(3 * 2 * 7 * (5 * 4 + 16 + 2 * 2 * 16))
    assert text_encoder_flops(TextEncoderConfig(9, 4, 6, 5, 2, 1), prompts=2, length=3) == Flops(
        12 * (4 * 24 + 3 * 20), 12 * 2 * 6 * 3
    )
    assert (
        peak("TPU v5 lite") == 197e12
        and peak("TPU v5p") == 459e12
        and peak("NVIDIA H200") == 989e12
        and peak("cpu") is None
    )


def test_a_chunk_after_its_history_as_xla_counts_it():
    pool = jax.eval_shape(lambda: KVCache.empty(ONE_LAYER, FILMS.films, 12, FILMS.tokens))
    last = lambda model, pool, noisy, text, shots: pool_forced(
        model, pool, noisy, 500.0, text, shots, PassConfig(FILMS.memory)
    )
    assert counted(last, ABSTRACT, pool, film(1), TEXT, SHOTS) == pytest.approx(
        FILMS.against_pool(1).forward, rel=0.04
    )
    tapped = lambda model, noisy, text, shots: noisy_causal(
        model, noisy, 500.0, text, shots, PassConfig(FILMS.memory, features=(0,))
    )[1]
    beyond = [sum(FILMS.keys(FILMS.chunks - 1) - FILMS.keys(i) for i in range(FILMS.chunks))]
    # XLA also multiplies with the padding beyond a field's length.
    padding = FILMS.films * 2 * 18 * 2 * ONE_LAYER.dim * beyond[0]
    assert counted(tapped, ABSTRACT, film(), TEXT, SHOTS) == pytest.approx(
        FILMS.noisy_stream(layers=1).forward + padding, rel=0.04
    )


def test_a_training_step_as_xla_counts_it():
    loss = lambda model, clean, noisy, text, shots: jnp.sum(
        jnp.square(
            teacher_forced(model, clean, noisy, 500.0, text, shots, PassConfig(FILMS.memory))
        )
    )
    padded = (
        FILMS.films * segments(ONE_LAYER, 18, [FILMS.keys(FILMS.chunks - 1)] * 7, read=4)
        + FILMS.prompts()
    )
    assert counted(jax.grad(loss), ABSTRACT, film(), film(), TEXT, SHOTS) == pytest.approx(
        padded.trained, rel=0.04
    )
    fewer = [FILMS.keys(i) for i in (0, 1, 2, 0, 1, 2, 3)]
    assert FILMS.packed() == FILMS.films * segments(ONE_LAYER, 18, fewer, read=4) + FILMS.prompts()


def test_prompts_as_xla_counts_them():
    config = TextEncoderConfig(
        vocab_size=50, dim=64, dim_attn=64, dim_ffn=160, num_heads=2, num_layers=1
    )
    encoder = jax.eval_shape(lambda: UMT5Encoder(config, key=jax.random.key(0)))
    ids = jax.ShapeDtypeStruct((3, 24), jnp.int32)
    xla = counted(lambda encoder, ids: encoder(ids, ids != 0), encoder, ids)
    assert xla == pytest.approx(text_encoder_flops(config, prompts=3, length=24).forward, rel=0.06)


def test_updates_of_distribution_matching_as_xla_counts_them():
    """One chunk, one step, one layer, so that no loop runs twice."""
    sizes = dataclasses.replace(ONE_LAYER, dim=256, ffn_dim=640)
    config = tiny_config(
        stage="dmd",
        teacher="-",
        batch=2,
        transformer=sizes,
        text_encoder=TextEncoderConfig(50, 48, 48, 96, 2, 1),
        self_forcing=SelfForcingConfig(steps=1, exit="last", grad_frames=0),
        dmd=DMDConfig(real_guidance=3.0),
        critic_optim=OptimConfig(schedule="constant", warmup=0),
    )
    films = FilmFlops(sizes, config.memory, films=2, chunks=1, tokens=6, shots=2)
    abstract = lambda make: jax.eval_shape(lambda: make(jax.random.key(0)))
    transformer = abstract(lambda key: Transformer(sizes, key=key))
    nets = dict.fromkeys(("student", "fake_score", "teacher"), transformer)
    nets |= {"text_encoder": abstract(lambda key: UMT5Encoder(config.text_encoder, key=key))}
    nets |= {"head": abstract(lambda key: config.gan.head(sizes.dim, 1, key=key))}
    batch = {
        "latents": film(1),
        "token_ids": jax.ShapeDtypeStruct((2, 2, 20), jnp.int32),
        "shot_of_chunk": jax.ShapeDtypeStruct((2, 1), jnp.int32),
    }
    for update in stage_spec(config, (1,) + (0,) * 19).updates:
        trained = {name: nets[name] for name in update.nets}
        fixed = {name: net for name, net in nets.items() if name not in trained}
        loss = lambda trained, fixed, batch, update=update: update.loss(
            trained, fixed, batch, jax.random.key(0)
        )[0]
        xla = counted(jax.grad(loss), trained, fixed, batch)
        assert update_flops(config, films)[update.name] == pytest.approx(xla, rel=0.08), update.name


def test_other_builds_of_a_card_are_not_known():
    assert chip_of("NVIDIA H100 80GB HBM3") == "h100" and chip_of("NVIDIA H200") == "h200"
    assert chip_of("NVIDIA H100 PCIe") is chip_of("NVIDIA H200 NVL") is None
