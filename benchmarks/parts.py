"""Single parts: attention, the VAE, a prompt, the whole transformer; and the device itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.flops import FilmFlops, text_encoder_flops
from benchmarks.settings import CHUNK_FRAMES, Settings, network, random_like
from benchmarks.timing import measure, rates, spread, timed
from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import first_line
from causalcine_jax.film.embeddings import encode
from causalcine_jax.models.attention.backends import BACKENDS
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import whole_film
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.models.vae.wan_vae import VAE

FILM_CHUNKS = 20  # of 15 s
WHOLE_FILM_FRAMES = 21  # a whole film of Wan2.1: 81 video frames


def attention(settings: Settings) -> dict:
    """Times attention over a full receptive field, by this platform's back ends and the GPU's.

    Times one chunk alone, and all chunks of a packed pass together. The first back end is the
    one in use; a back end that cannot run here gives its reason.
    """
    sizes, policy = settings.transformer, MemoryConfig()
    queries = CHUNK_FRAMES * settings.tokens
    keys = (
        queries + (policy.window_chunks * CHUNK_FRAMES + policy.retrieved_frames) * settings.tokens
    )
    backends = dict.fromkeys([*BACKENDS.get(jax.default_backend(), ()), *BACKENDS["gpu"]])
    result = {
        "queries": queries,
        "keys": keys,
        "heads": sizes.num_heads,
        "head_dim": sizes.head_dim,
        "dtype": str(settings.inference_dtype),
    }
    for segments in sorted({1, settings.batch or 2 * FILM_CHUNKS - 1}):
        shapes = [
            (segments, length, sizes.num_heads, sizes.head_dim) for length in (queries, keys, keys)
        ]
        inputs = [
            jax.random.normal(jax.random.key(i), shape, settings.inference_dtype)
            for i, shape in enumerate(shapes)
        ]
        lengths = jnp.full((segments,), keys, jnp.int32)
        flop = 4 * segments * queries * keys * sizes.dim
        by_name = {
            backend.__name__.strip("_"): _attention_times(backend, inputs, lengths, flop, settings)
            for backend in backends
        }
        if settings.peer:
            from benchmarks.peer import torch_attention

            by_name["torch"] = torch_attention(shapes, flop, settings)
        result[f"segments_{segments}"] = by_name
    return result


def _attention_times(backend, inputs, lengths, flop: float, settings: Settings) -> dict:
    forward = jax.jit(backend)
    total = lambda q, k, v, lengths: jnp.sum(backend(q, k, v, lengths).astype(jnp.float32) ** 2)
    both = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    try:
        passes = {
            "forward": (measure(lambda: forward(*inputs, lengths), settings.repeats), flop),
            "forward_and_backward": (
                measure(lambda: both(*inputs, lengths), settings.repeats),
                3 * flop,
            ),
        }
    except (NotImplementedError, RuntimeError, ValueError) as reason:
        return {"cannot": first_line(reason)}
    dtype = settings.inference_dtype
    return {
        name: {"seconds": seconds, **rates(count, seconds["median"], dtype)}
        for name, (seconds, count) in passes.items()
    }


def vae(settings: Settings) -> dict:
    """Times the VAE on chunks of 12 video frames.

    Encodes and decodes a chunk in the middle of a film, decodes the film's first, shorter chunk,
    and decodes with TAEHV in the VAE's place.
    """
    net, stride = network(settings, VAE), settings.sizes.vae.temporal_stride
    dtype = settings.inference_dtype
    video = random_like((1, stride * CHUNK_FRAMES, *settings.frame_size, 3), dtype)
    latents = random_like((1, CHUNK_FRAMES, *settings.latent_size, settings.sizes.vae.z_dim), dtype)
    tiny = network(settings, TinyDecoder)
    beginning = video[:, : stride * (CHUNK_FRAMES - 1) + 1]
    return {
        "frames": video.shape[1],
        "dtype": str(dtype),
        "encode": measure(
            stream(net.encode_next, net.encode_first(beginning)[1], video), settings.repeats
        ),
        "decode": measure(
            stream(net.decode_next, net.decode_first(latents)[1], latents), settings.repeats
        ),
        "decode_first": measure(lambda: net.decode_first(latents), settings.repeats),
        "tiny_decode": measure(
            stream(tiny.decode_next, tiny.decode_first(latents)[1], latents), settings.repeats
        ),
    }


def stream(step, cache, piece):
    """Returns a call that codes `piece` repeatedly, passing on the cache that each step donates."""

    def run():
        nonlocal cache
        done, cache = step(cache, piece)
        return done, cache

    return run


def text(settings: Settings) -> dict:
    """Times a prompt, alone and padded, as generation embeds it."""
    config, length = settings.sizes.text_encoder, settings.transformer.text_len
    net, ids = (
        network(settings, UMT5Encoder),
        jnp.arange(1, length + 1)[None] % config.vocab_size,
    )
    seconds = measure(lambda: encode(net, ids, jnp.ones_like(ids)), settings.repeats)
    flop = text_encoder_flops(config, prompts=1, length=length).forward
    return {
        "tokens": length,
        "seconds": seconds,
        **rates(flop, seconds["median"], settings.inference_dtype),
    }


def forward(settings: Settings) -> dict:
    """Times the transformer on a film of 21 latent frames at once, as bidirectional Wan2.1 runs.

    With a peer, times Diffusers' transformer on the same weights, in turns. Each call is timed
    until its answer is on the device.
    """
    sizes, dtype = settings.transformer, settings.inference_dtype
    model = network(settings, Transformer)
    x = random_like((1, WHOLE_FILM_FRAMES, *settings.latent_size, sizes.in_dim), dtype)
    prompt, t = (
        random_like((1, sizes.text_len, sizes.text_dim), dtype, seed=2),
        jnp.asarray([637.0]),
    )
    run = jax.jit(whole_film)
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: run(model, x, t, prompt)}
    if settings.peer:
        from benchmarks.peer import diffusers_forward, latents_of, versions

        calls["diffusers"] = diffusers_forward(model, x, t, prompt)
    # Compiles and warms up.
    answers = {name: jax.block_until_ready(call()) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(settings.repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    films = FilmFlops(
        sizes, MemoryConfig("none", 0), 1, 1, settings.tokens, 1, chunk_frames=WHOLE_FILM_FRAMES
    )
    flop = films.against_pool().forward
    result: dict[str, Any] = {
        "tokens": WHOLE_FILM_FRAMES * settings.tokens,
        "dtype": settings.transformer_dtype,
    }
    for name, times in seconds.items():
        result[name] = {
            "seconds": spread(times),
            **rates(flop, spread(times)["median"], settings.transformer_dtype),
        }
    if settings.peer:
        ours, theirs = (
            answers["ours"].astype(jnp.float32),
            jnp.asarray(latents_of(answers["diffusers"])),
        )
        result["peer"] = versions()
        result["difference"] = float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))
        result["speed_over_diffusers"] = (
            result["diffusers"]["seconds"]["median"] / result["ours"]["seconds"]["median"]
        )
    return result


def device(settings: Settings) -> dict:
    """Measures nothing: every result names the device that a part ran on."""
    return {}
