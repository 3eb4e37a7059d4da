"""Rollouts of the public causal models, against a plain one in numpy float64.

The reference follows Self-Forcing, Causal-Forcing and CausVid, and shares no code with ours:

* It keeps a list of all keys, rotated once to their absolute positions.
* Its buffer includes the current chunk. The oldest frames after the sink roll out of it.
* Noise levels come from the table of 1000 training times, with fresh noise between steps.
* A last pass at t = 0 commits the clean chunk.
"""

import dataclasses
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import ROLLOUT_SIZES as CONFIG
from tiny_models import random_weights, tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.families import family
from causalcine_jax.film import rollout
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import new_state, roll_chunk
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import TextContext, Transformer

HEIGHT, WIDTH = 4, 6
ROWS, COLUMNS = HEIGHT // 2, WIDTH // 2


def f64(parameter):
    return np.asarray(parameter[...], np.float64)


def linear(layer, x, i=...):
    return x @ f64(layer.weight)[i] + f64(layer.bias)[i]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rms_norm(layer, x, i):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + CONFIG.eps) * f64(layer.weight)[i]


def layer_norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + CONFIG.eps)


def heads(x):
    return x.reshape(*x.shape[:-1], CONFIG.num_heads, -1)


def attend(q, k, v):
    """q [t, h, d], k and v [s, h, d] -> [t, h * d]"""
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v).reshape(
        len(q), -1
    )


def rotate(x, frames):
    """x [f, p, h, d] at the absolute positions `frames`, as complex numbers."""
    d = x.shape[-1]
    space = 2 * (d // 6)
    grid = np.stack(
        np.meshgrid(frames, np.arange(ROWS), np.arange(COLUMNS), indexing="ij"), -1
    ).reshape(len(frames), -1, 3)
    sizes = (d - 2 * space, space, space)
    angle = np.concatenate(
        [grid[..., a : a + 1] * 10000.0 ** (-np.arange(0, n, 2) / n) for a, n in enumerate(sizes)],
        -1,
    )
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, :, None]
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


class PlainRollout:
    """A buffer of `size` frames, a chunk's own included, whose first `sink` frames never leave."""

    def __init__(self, model, text, size, sink):
        self.model, self.size, self.sink = model, size, sink
        self.history = [
            [] for _ in range(CONFIG.num_layers)
        ]  # per layer: (rotated keys, values) of every visible frame
        padded = np.zeros((CONFIG.text_len, CONFIG.text_dim))
        padded[: len(text)] = text
        self.text = linear(model.text_embedding_2, gelu(linear(model.text_embedding_0, padded)))

    def visible(self, layer, own):
        frames = self.history[layer] + own
        while len(frames) > self.size:
            del frames[self.sink]
        return frames

    def velocity(self, x, t, first, commit=False):
        """x [c, h, w, ch], the film's frames from `first` on, at time t."""
        model, count = self.model, len(x)
        angles = t * 10000.0 ** (-np.arange(CONFIG.freq_dim // 2) / (CONFIG.freq_dim // 2))
        e = linear(
            model.time_embedding_2,
            silu(linear(model.time_embedding_0, np.concatenate([np.cos(angles), np.sin(angles)]))),
        )
        e0 = linear(model.time_projection_1, silu(e)).reshape(6, -1)
        patches = (
            x.reshape(count, ROWS, 2, COLUMNS, 2, -1)
            .transpose(0, 1, 3, 5, 2, 4)
            .reshape(count * ROWS * COLUMNS, -1)
        )
        h = linear(model.patch_embedding, patches)
        for i in range(CONFIG.num_layers):
            b = model.blocks
            shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = f64(b.modulation)[i] + e0
            y = layer_norm(h) * (1 + scale_sa) + shift_sa
            frames = lambda z: heads(z).reshape(count, ROWS * COLUMNS, CONFIG.num_heads, -1)
            q = rotate(
                frames(rms_norm(b.self_attn.norm_q, linear(b.self_attn.q, y, i), i)),
                first + np.arange(count),
            )
            k = rotate(
                frames(rms_norm(b.self_attn.norm_k, linear(b.self_attn.k, y, i), i)),
                first + np.arange(count),
            )
            v = frames(linear(b.self_attn.v, y, i))
            seen = self.visible(i, list(zip(k, v, strict=True)))
            if commit:
                self.history[i] = seen
            out = attend(
                np.concatenate(q),
                np.concatenate([k for k, _ in seen]),
                np.concatenate([v for _, v in seen]),
            )
            h = h + linear(b.self_attn.o, out, i) * gate_sa
            y = layer_norm(h) * f64(b.norm3.weight)[i] + f64(b.norm3.bias)[i]
            cross = b.cross_attn
            q = heads(rms_norm(cross.norm_q, linear(cross.q, y, i), i))
            k = heads(rms_norm(cross.norm_k, linear(cross.k, self.text, i), i))
            h = h + linear(cross.o, attend(q, k, heads(linear(cross.v, self.text, i))), i)
            y = layer_norm(h) * (1 + scale_ff) + shift_ff
            h = h + linear(b.ffn_2, gelu(linear(b.ffn_0, y, i)), i) * gate_ff
        shift, scale = f64(model.head_modulation) + e
        out = linear(model.head, layer_norm(h) * (1 + scale) + shift).reshape(
            count, ROWS, COLUMNS, 2, 2, -1
        )
        return out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)

    def chunk(self, noise, times, shift, fresh, first):
        """Denoises in the few steps `times`; then a clean pass stores keys and values."""
        position = np.arange(1000, 0, -1) / 1000
        table = shift * position / (1 + (shift - 1) * position)
        sigmas = [table[np.argmin(abs(1000 * table - t))] for t in times]
        x = noise
        for step, (t, sigma) in enumerate(zip(times, sigmas, strict=True)):
            x0 = x - sigma * self.velocity(x, t, first)
            if step + 1 < len(times):
                x = (1 - sigmas[step + 1]) * x0 + sigmas[step + 1] * fresh(step)
        self.velocity(x0, 0.0, first, commit=True)
        return x0


@pytest.fixture(scope="module")
def weights():
    """A model, and the text of a prompt."""
    model = jax.tree.map(
        lambda a: jnp.asarray(0.7 * np.asarray(a)),
        random_weights(lambda key: Transformer(CONFIG, key=key), 0),
    )
    return model, np.random.default_rng(1).standard_normal((4, CONFIG.text_dim))


@pytest.mark.parametrize(
    "name, size, sink, chunks, times, shift",
    [
        ("self-forcing", 21, 0, 8, (1000, 937.5, 2500 / 3, 625), 5),
        ("causal-forcing-framewise", 21, 0, 22, (1000, 937.5, 2500 / 3, 625), 5),
        ("causal-forcing++-2step", 21, 0, 3, (1000, 2500 / 3), 5),
        ("causvid", 21, 0, 8, (1000, 757, 522), 8),
        (
            "longlive-1",
            12,
            3,
            7,
            (1000, 937.5, 2500 / 3, 625),
            5,
        ),  # under one prompt: its re-caching is not reproduced
    ],
)
def test_a_rollout_is_that_of_its_authors(weights, name, size, sink, chunks, times, shift):
    each, (model, text) = family(name), weights
    shape = (1, each.chunk_frames, HEIGHT, WIDTH, CONFIG.in_dim)

    plain = PlainRollout(model, text, size, sink)
    context = jax.jit(rollout.embed_prompt)(model, jnp.asarray(text[None], jnp.float32))
    # The smallest pool that holds the field: what has rolled out of theirs is evicted from ours.
    pool = KVCache.empty(
        CONFIG, 1, each.memory.smallest_pool(each.chunk_frames), ROWS * COLUMNS, each.chunk_frames
    )
    assert pool.frames < chunks * each.chunk_frames or each.sampler.first_step_list
    for index in range(chunks):
        key = jax.random.key(index)
        noise = np.random.default_rng(index).standard_normal(shape).astype(np.float32)
        x0, _ = rollout.denoise(
            model,
            pool,
            jnp.asarray(noise),
            context,
            jnp.int32(index),
            key,
            sampler=each.sampler.of_chunk(index),
            memory=each.memory,
        )
        pool = rollout.commit(model, pool, x0, context, jnp.int32(index), memory=each.memory)
        fresh = lambda step, key=key: np.asarray(
            jax.random.normal(jax.random.fold_in(key, step), shape)[0], np.float64
        )
        own = (1000, 937.5, 2500 / 3, 625) if each.sampler.first_step_list and not index else times
        expected = plain.chunk(
            noise[0].astype(np.float64), own, shift, fresh, index * each.chunk_frames
        )
        assert np.linalg.norm(x0[0] - expected) <= 1e-5 * np.linalg.norm(expected), index


def test_the_rollout_gives_the_first_chunk_its_own_steps(monkeypatch):
    each, asked = family("causal-forcing++-1step"), []

    def stopped(*args, sampler, **others):
        asked.append(sampler.steps)
        raise StopIteration

    monkeypatch.setattr(rollout, "denoise", stopped)
    memory = each.memory
    settings = FilmSettings(each.sampler, memory, PoolConfig(memory.smallest_pool(3)), 16, 16)
    model = tiny_model()
    state, prompt = new_state(model, settings), Mock(spec=TextContext)
    for index in range(3):
        with pytest.raises(StopIteration):
            roll_chunk(model, dataclasses.replace(state, chunk=index), prompt, settings)
    assert asked == [4, 1, 1]


def test_the_reference_can_fail(weights):
    """Another window, sink or time is another film, by far more than rounding."""
    model, text = weights
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 3, HEIGHT, WIDTH, CONFIG.in_dim))

    def film(size=12, sink=3, times=(1000, 625), shift=5):
        plain = PlainRollout(model, text, size, sink)
        return np.stack(
            [
                plain.chunk(x, times, shift, lambda step: noise[0], 3 * index)
                for index, x in enumerate(noise)
            ]
        )

    base = film()
    for other in (
        film(size=9),
        film(sink=0),
        film(times=(1000, 620)),
        film(times=(1000, 624.5), shift=8),
    ):
        assert np.linalg.norm(other[-1] - base[-1]) > 1e-4 * np.linalg.norm(base[-1])
