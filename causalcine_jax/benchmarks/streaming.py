"""A film as it streams: every chunk by the engine that generation uses, on random weights.

    first    a new film: the prompt's keys and values, then the first chunk (all compiled before)
    minutes  chunks in the film's first and tenth minute, after a pool that was filled so far by committing random chunks

A chunk in the tenth minute costs what one in the first does if nothing grows: neither the field nor the pool. Only the chunks that the pool still
holds then are committed: the sink and the newest.
"""

import time
from statistics import median

import jax
from jaxtyping import Array, Float

from causalcine_jax.benchmarks.settings import CHUNK_FRAMES, Settings, network, random_like
from causalcine_jax.benchmarks.timing import memory, rates, spread
from causalcine_jax.config import MemoryConfig
from causalcine_jax.generation.engine import RolloutEngine
from causalcine_jax.generation.model_folder import Model
from causalcine_jax.models.kv_cache import pool_frames_for
from causalcine_jax.models.nn import Module
from causalcine_jax.parallel.flops import Films

FPS = 16
MINUTES = (1, 10)


class RandomPrompt:
    """In the place of a text encoder: every prompt is the same random embedding."""

    def __init__(self, settings: Settings):
        sizes = settings.transformer
        self._row = random_like((1, sizes.text_len, sizes.text_dim), settings.inference_dtype)

    def padded(self, prompt: str, text_len: int) -> Float[Array, "1 t c"]:
        return self._row


def random_model(settings: Settings) -> Model:
    """The preset's transformer and VAE, and what decodes in its place where that is asked for; prompts are random."""
    networks = {part: network(settings, part) for part in ("transformer", "vae", *(["tiny_decoder"] if settings.tiny_decoder else []))}
    return Model(**networks, text_encoder=None, tokenizer=None, chunk_frames=CHUNK_FRAMES, embeddings=RandomPrompt(settings))


def new_film(model: Model, settings: Settings, policy: MemoryConfig = MemoryConfig()) -> RolloutEngine:
    """A film without chunks, its pool allocated."""
    return RolloutEngine(
        model,
        height=settings.height,
        width=settings.width,
        seed=0,
        sampler=settings.rollout_sampler,
        memory=policy,
        pool_frames=settings.pool_frames,
        kv_dtype=settings.kv_dtype,
        pool_on=settings.pool_on,
    )


def streaming(settings: Settings, policy: MemoryConfig = MemoryConfig()) -> dict:
    """Seconds per chunk by move, frames per second, operations, bytes. `UsageError` for a pool that cannot hold the field."""
    pool_frames_for(None, policy, CHUNK_FRAMES, settings.pool_frames)
    model, sampler, frames = random_model(settings), settings.rollout_sampler, CHUNK_FRAMES * settings.sizes.vae.temporal_stride
    engine = new_film(model, settings, policy)
    for chunk in range(2):  # compiles everything: the decoder has two forms
        engine.chunk(engine.embed(""), chunk)
    first = []
    for _ in range(settings.repeats):
        engine = None  # two pools may be more than there is memory for
        engine = new_film(model, settings, policy)
        first.append(_first_chunk(engine))
    context, minutes, evaluations = engine.embed(""), {}, sampler.steps * engine.films
    for minute in MINUTES:
        number = 60 * FPS * minute // frames
        _fill(engine, context, settings, policy, number)
        laps = [_chunk(engine, context, number + i) for i in range(settings.repeats)]
        minutes[f"minute_{minute}"] = {**_by_move(laps), **_frames_per_second(laps, frames), "memory": memory()}
    early, late = (minutes[f"minute_{minute}"] for minute in MINUTES)
    films = Films(settings.transformer, policy, engine.films, number + 1, settings.tokens, 1)
    flop = (sampler.steps * films.noisy(1) + films.commits([number])).forward
    return {
        "sampler": {"solver": sampler.solver, "evaluations": evaluations, "guidance": sampler.guidance},
        "dtype": settings.dtype or str(settings.inference_dtype),
        "first": {**_by_move(first), "in_later_chunks": median(lap["together"] for lap in first) / early["together"]["median"]},
        **minutes,
        "late_over_early": late["together"]["median"] / early["together"]["median"],
        "memory_late_over_early": late["memory"]["in_use"] / early["memory"]["in_use"],
        "arithmetic": rates(flop, early["denoise"]["median"] + early["commit"]["median"], settings.inference_dtype),
        "pool": {"frames": settings.pool_frames, "bytes": engine.pool_bytes, "host_bytes": engine.pool_host_bytes},
        "weights": {"bytes": {part: _bytes(getattr(model, part)) for part in ("transformer", "vae")}},
    }


def _first_chunk(engine: RolloutEngine) -> dict[str, float]:
    """Seconds from a prompt's embedding to a film's first frames."""
    start = time.perf_counter()
    context = jax.block_until_ready(engine.embed(""))
    prompt = time.perf_counter() - start
    return {"prompt": prompt, **engine.chunk(context, 0).seconds, "together": time.perf_counter() - start}


def _chunk(engine: RolloutEngine, context, number: int) -> dict[str, float]:
    """Seconds of a chunk's moves, and of all by the clock on the wall: its frames are then on the host."""
    start = time.perf_counter()
    seconds = engine.chunk(context, number).seconds
    return {**seconds, "together": time.perf_counter() - start}


def _fill(engine: RolloutEngine, context, settings: Settings, policy: MemoryConfig, number: int) -> None:
    """Leaves the pool as a film does before its chunk `number`."""
    latents = random_like((1, CHUNK_FRAMES, *settings.latent_size, settings.transformer.in_dim))
    sink = -(-policy.memory_frames // CHUNK_FRAMES)
    newest = settings.pool_frames // CHUNK_FRAMES - sink
    for chunk in (*range(min(sink, number)), *range(max(sink, number - newest), number)):
        engine.given(context, chunk, latents)


def _by_move(laps: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([lap[name] for lap in laps]) for name in laps[0]}


def _frames_per_second(laps: list[dict[str, float]], frames: int) -> dict[str, float]:
    without = median(lap["denoise"] + lap["commit"] for lap in laps)
    return {"fps": frames / median(lap["together"] for lap in laps), "fps_without_decode": frames / without}


def _bytes(net: Module) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(net))
