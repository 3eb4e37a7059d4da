"""A film as it streams: every chunk by generation's engine, on random weights.

    first     a new film: prompt, text encoder, its keys and values, then the first chunk; all
              compiled before
    minutes   chunks in a film's first and tenth minute, in turns, so that a machine that becomes
              faster or slower affects both
    enqueued  chunks whose moves are enqueued without waiting, in the same turns

A minute begins with what a film of that length leaves in the cache, as far as its size allows.
A chunk in the tenth minute costs as much as one in the first if neither field nor cache grows.
"""

import time
from statistics import median

import jax

from benchmarks.film import PROMPT, FilmPosition, MeasuredFilm, fill, new_film
from benchmarks.flops import FilmFlops
from benchmarks.random_model import random_model
from benchmarks.settings import CHUNK_FRAMES, Settings
from benchmarks.timing import memory, rates, spread
from causalcine_jax.config import MemoryConfig
from causalcine_jax.film.model_folder import PARTS
from causalcine_jax.film.pool import check_pool
from causalcine_jax.models.dit import TextContext
from causalcine_jax.utils.arrays import tree_bytes

FPS = 16
EARLY, LATE = MINUTES = (1, 10)
Laps = list[dict[str, float]]


def streaming(settings: Settings) -> dict:
    """Measures seconds per chunk by move, frames per second, operations and bytes.

    Raises:
      UsageError: the cache cannot hold the receptive field.
    """
    policy = MemoryConfig()
    check_pool(settings.pool_frames, None, policy, CHUNK_FRAMES)
    model, sampler = random_model(settings), settings.rollout_sampler
    frames = CHUNK_FRAMES * settings.sizes.vae.temporal_stride
    film = new_film(model, settings, policy)
    for _ in range(2):  # compiles everything: the decoder has two forms
        film.measured(film.embed(PROMPT))
    first = []
    for _ in range(settings.repeats):
        del film  # frees the cache first: memory may not suffice for two
        film = new_film(model, settings, policy)
        first.append(_from_prompt(film))
    context = film.embed(PROMPT)
    number = {minute: 60 * FPS * minute // frames for minute in MINUTES}
    held = {}
    for minute in MINUTES:
        _reach(film, context, settings, policy, number[minute])
        held[minute] = memory()
    late = film.position  # copied after `memory()`, which must not count the copy
    _reach(film, context, settings, policy, number[EARLY])
    laps, enqueued, copied = _in_turns(
        film, context, {EARLY: film.position, LATE: late}, settings.repeats
    )
    minutes = {
        minute: {
            **_by_move(laps[minute]),
            **_frames_per_second(laps[minute], frames),
            "memory": held[minute],
            **copied[minute],
        }
        for minute in MINUTES
    }
    early = minutes[EARLY]
    late_over_early = [
        late["together"] / early["together"]
        for early, late in zip(laps[EARLY], laps[LATE], strict=True)
    ]
    films = FilmFlops(
        settings.transformer, policy, film.settings.histories, number[LATE] + 1, settings.tokens, 1
    )
    flop = (sampler.steps * films.noisy(1) + films.commits([number[LATE]])).forward
    return {
        "sampler": {
            "solver": sampler.solver,
            "evaluations": sampler.steps * film.settings.histories,
            "guidance": sampler.guidance,
        },
        "dtype": settings.transformer_dtype,
        "first": {
            **_by_move(first),
            "in_later_chunks": median(lap["together"] for lap in first)
            / early["together"]["median"],
        },
        **{f"minute_{minute}": result for minute, result in minutes.items()},
        "late_over_early": median(late_over_early),
        "late_over_early_least": min(late_over_early),
        "late_over_early_most": max(late_over_early),
        "memory_late_over_early": held[LATE]["in_use"] / held[EARLY]["in_use"],
        "enqueued": {
            "seconds": spread(enqueued),
            "fps": frames / median(enqueued),
            "over_sum_of_moves": median(enqueued)
            / sum(early[move]["median"] for move in ("denoise", "commit", "decode")),
        },
        "arithmetic": rates(
            flop, early["denoise"]["median"] + early["commit"]["median"], settings.transformer_dtype
        ),
        "pool": {
            "frames": settings.pool_frames,
            "bytes": film.pool.bytes,
            "host_bytes": film.pool.host_bytes,
        },
        "weights": {"bytes": {part: tree_bytes(getattr(model, part)) for part in PARTS}},
    }


def _from_prompt(film: MeasuredFilm) -> dict[str, float]:
    """Returns the seconds from a prompt's words to a film's first frames."""
    start = time.perf_counter()
    context = jax.block_until_ready(film.embed(PROMPT))
    prompt = time.perf_counter() - start
    return {"prompt": prompt, **film.measured(context), "together": time.perf_counter() - start}


def _reach(
    film: MeasuredFilm, context: TextContext, settings: Settings, policy: MemoryConfig, number: int
) -> None:
    fill(film, context, settings, policy, number)
    film.measured(context)


def _in_turns(
    film: MeasuredFilm, context: TextContext, positions: dict[int, FilmPosition], repeats: int
) -> tuple[dict[int, Laps], list[float], dict[int, dict]]:
    """Times a chunk of each minute per turn, and one of the first minute enqueued.

    Every other turn begins with the last minute. With history in host memory, also returns the
    frames copied to the device in each minute: per layer, chunk by chunk.
    """
    laps: dict[int, Laps] = {minute: [] for minute in positions}
    copied: dict[int, dict[str, dict[str, list[float]]]] = {minute: {} for minute in positions}
    enqueued = []
    for turn in range(repeats):
        for minute in list(positions)[:: 1 if turn % 2 == 0 else -1]:
            film.go_to(positions[minute])
            laps[minute].append(film.measured(context))
            positions[minute] = film.position
            for name, count in (film.copied or {}).items():
                copied[minute].setdefault("frames_copied", {}).setdefault(name, []).append(count)
        film.go_to(positions[EARLY])
        film.waits = False
        enqueued.append(film.measured(context)["together"])
        film.waits, positions[EARLY] = True, film.position
    return laps, enqueued, copied


def _by_move(laps: Laps) -> dict[str, dict[str, float]]:
    return {name: spread([lap[name] for lap in laps]) for name in laps[0]}


def _frames_per_second(laps: Laps, frames: int) -> dict[str, float]:
    without = median(lap["denoise"] + lap["commit"] for lap in laps)
    return {
        "fps": frames / median(lap["together"] for lap in laps),
        "fps_without_decode": frames / without,
    }
