"""Measures what a small cache of history forgets, and what one byte per number costs.

The measure is recall of characters that come back after longer than the cache reaches.

    python benchmarks/pools.py --absent far --returns 60 --out outputs/pools_far.jsonl \\
        > pools_far.json

Films of StoryWorld are several times as long as those of training. A case is a return of a
character that first appeared after the sink, when a cache of --pool-frames is full.
far: it was last seen before all chunks that the cache holds, so evicting the oldest has lost it.
near: it was last seen behind the window, but evicting the oldest still holds it. So any other
eviction can only lose. The true film is committed up to the return. The model generates its first
two chunks, and the judge reads them (evaluation/storyworld/recall.py). All cases have one noise:

    whole film         every chunk kept: the reference for the cost of forgetting
    whole film, int8   the same, stored in one byte per number
    oldest             --pool-frames kept; the oldest chunk is evicted
    least_retrieved    --pool-frames kept; the chunk that memory recently retrieved least is evicted

--out has a line per case; started again, the measurement resumes after the last line.
Prints one JSON object. Per row: the fractions that are right (not found is wrong), how many caches
still held the character, the fraction of layers that retrieved it (remembered); that of frames that
agree on looks (consistency), the difference to `whole film` in grey levels, paired differences.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.sources import run_context
from causalcine_jax.cli import run
from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.intervals import bootstrap_mean, wilson
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.config import HELD_OUT_SEED
from causalcine_jax.evaluation.storyworld.reading import Judge, of_character
from causalcine_jax.evaluation.storyworld.recall import (
    CHANCE,
    CHUNKS_JUDGED,
    ReturnCase,
    Verdict,
    film_return,
)
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.evaluation.tables import plain
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film.pool import check_pool
from causalcine_jax.film.state import decode_next
from causalcine_jax.storyworld import WorldStory, sample_story
from causalcine_jax.storyworld.story import returns_of_plan
from causalcine_jax.storyworld.world import WORLDS, WorldConfig

WHOLE, INT8, OLDEST, LEAST = "whole film", "whole film, int8", "oldest", "least_retrieved"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded student)")
    parser.add_argument(
        "--world",
        choices=sorted(WORLDS),
        default="base",
        help="the model's training world (default base)",
    )
    parser.add_argument(
        "--longer", type=int, default=3, help="films' length over the world's (default 3)"
    )
    parser.add_argument(
        "--absent",
        choices=("far", "near"),
        default="far",
        help="last seen before all chunks of a full cache, or within its reach (default far)",
    )
    parser.add_argument(
        "--returns", type=int, default=60, help="cases, each from another film (default 60)"
    )
    parser.add_argument(
        "--pool-frames",
        type=int,
        default=24,
        help="latent frames of history kept by rows that evict (default 24)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a line of JSON per case; an earlier measurement there is continued",
    )
    return parser.parse_args()


def long_returns(
    world: WorldConfig, memory: MemoryConfig, pool_chunks: int, absent: str = "far", first: int = 0
) -> Iterator[ReturnCase]:
    """Yields from every held-out story, from index `first` on, at most one return.

    It is the first one of the kind `absent` into a full cache, of a character outside the sink.
    """
    sink = memory.protected_chunks(CHUNK_FRAMES)
    beyond = memory.window_chunks if absent == "near" else pool_chunks
    # Evicting the oldest keeps the sink and the newest chunks; this is how far back they reach.
    reach = pool_chunks - sink if absent == "near" else world.chunks
    for index in itertools.count(first):
        story = sample_story(HELD_OUT_SEED, index, world)
        plan = [(shot.start_chunk, shot.chunks, shot.cast) for shot in story.shots]
        for back in returns_of_plan(plan, beyond):
            full = back.chunk > pool_chunks and back.first_seen_frame >= sink * CHUNK_FRAMES
            if (
                full
                and back.chunk - back.last_seen_chunk <= reach
                and story.shots[back.shot].chunks >= CHUNKS_JUDGED
            ):
                yield ReturnCase(story, back)
                break


def rows_of(
    engine: BatchRollout, memory: MemoryConfig, pool_frames: int
) -> dict[str, tuple[BatchRollout, MemoryConfig]]:
    small = dataclasses.replace(engine, pool=PoolConfig(pool_frames))
    return {
        WHOLE: (engine, memory),
        INT8: (dataclasses.replace(engine, pool=PoolConfig(kv_dtype="int8")), memory),
        OLDEST: (small, dataclasses.replace(memory, eviction="oldest")),
        LEAST: (small, dataclasses.replace(memory, eviction="least_retrieved")),
    }


def film_case(
    case: ReturnCase, rows: dict[str, tuple[BatchRollout, MemoryConfig]], judge: Judge
) -> dict[str, dict]:
    """Generates the return under each row, and returns what each shows."""
    engine, chunk, story = rows[WHOLE][0], case.back.chunk, case.story
    latents = engine.encode([true_film(story)], chunk)
    chunks = [
        latents[:, start : start + CHUNK_FRAMES]
        for start in range(0, latents.shape[1], CHUNK_FRAMES)
    ]
    _, before = decode_next(engine.model, None, chunks[-1])
    contexts, shown, whole = engine.prompts([story]), {}, None
    # The whole film is the first row, because the others' frames are compared with its frames.
    for name, (engine, memory) in rows.items():
        state = engine.history(chunks, [story], contexts, memory)
        assert state.cache is not None
        held = np.asarray(state.cache.chunk)
        made, (remembered,) = film_return(engine, state, chunks, [case], contexts, memory)
        frames = engine.decoded_after(before, made)[0].astype(np.int16)
        whole = frames if whole is None else whole
        found = of_character(judge.read(frames.astype(np.uint8)), case.sought)
        verdict = Verdict(case, found)
        shown[name] = {
            "found": found is not None,
            "colour": verdict.right("colour"),
            "accessory": verdict.right("accessory"),
            "mean": verdict.mean,
            "held": bool(shows(story, case.back.character)[held[held >= 0]].any()),
            "remembered": float(np.mean(remembered)),
            "consistency": found.consistency if found else 0.0,
            "difference": float(np.abs(frames - whole).mean()),
        }
    return shown


def shows(story: WorldStory, character: int) -> np.ndarray:
    """Returns which chunks of the story show the character."""
    return np.array([character in story.shots[shot].cast for shot in story.shot_of_chunk()])


def measured(path: Path, settings: dict, cases_from, count: int, film) -> Iterator[dict]:
    """Yields a record per case: those in the file, then new ones, each written when it is made.

    Raises:
      UsageError: the file has other settings.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # a run was killed in the middle of a line
        path.write_text(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines and lines[0] != settings:
        raise UsageError(
            f"{path} holds a measurement of {lines[0]}, not of {settings}: give another --out"
        )
    with open(path, "a") as file:
        write = lambda record: print(json.dumps(record), file=file, flush=True)
        if not lines:
            write(settings)
        known = lines[1 : count + 1]
        yield from known
        cases = cases_from(known[-1]["story"] + 1 if known else 0)
        for case in itertools.islice(cases, count - len(known)):
            record = {
                "story": case.story.index,
                **dataclasses.asdict(case.back),
                "rows": film(case),
            }
            write(record)
            yield record


def summary(records: list[dict]) -> dict:
    """Returns per row what the module's docstring lists, with 95 % intervals.

    Also returns mean recall less that of another row on the same cases.
    """
    of = lambda row, name: [record["rows"][row][name] for record in records]
    share = lambda row, name: wilson(sum(of(row, name)), len(records))
    mean = lambda values: bootstrap_mean(values)
    less = lambda row, other, name="mean": mean(np.subtract(of(row, name), of(other, name)))
    rows = {
        row: {
            **{name: plain(share(row, name)) for name in ("colour", "accessory", "found", "held")},
            **{
                name: plain(mean(of(row, name)))
                for name in ("mean", "remembered", "consistency", "difference")
            },
        }
        for row in (WHOLE, INT8, OLDEST, LEAST)
    }
    paired = {
        f"{row} less {other}": plain(less(row, other))
        for row, other in ((LEAST, OLDEST), (OLDEST, WHOLE), (LEAST, WHOLE), (INT8, WHOLE))
    }
    paired["consistency, int8 less whole film"] = plain(less(INT8, WHOLE, "consistency"))
    same = sum(
        all(
            record["rows"][INT8][name] == record["rows"][WHOLE][name]
            for name in ("found", "colour", "accessory")
        )
        for record in records
    )
    return {
        "rows": rows,
        "paired": paired,
        "same verdict under int8": plain(wilson(same, len(records))),
    }


def main() -> None:
    flags = parse()
    model = load_model(chosen_model(flags.model))
    memory, world = model.memory, WORLDS[flags.world]().longer(flags.longer)
    check_pool(flags.pool_frames, world.chunks, memory, CHUNK_FRAMES)
    rows = rows_of(
        BatchRollout(model, world, model.sampler, HELD_OUT_SEED), memory, flags.pool_frames
    )
    settings = {
        "model": model.name,
        "world": flags.world,
        "longer": flags.longer,
        "pool_frames": flags.pool_frames,
        "absent": flags.absent,
        "memory": dataclasses.asdict(memory),
        "sampler": dataclasses.asdict(model.sampler),
        "seed": HELD_OUT_SEED,
    }
    settings, judge = json.loads(json.dumps(settings)), Judge.load()
    cases_from = lambda first: long_returns(
        world, memory, flags.pool_frames // CHUNK_FRAMES, flags.absent, first
    )
    film = lambda case: film_case(case, rows, judge)
    records = list(measured(flags.out, settings, cases_from, flags.returns, film))
    pools = {}
    for name, (engine, memory) in rows.items():
        cache = engine.start(1, memory).cache
        assert cache is not None
        pools[name] = cache.bytes
    absent = [record["chunk"] - record["last_seen_chunk"] - 1 for record in records]
    result = {
        "benchmark": "pools",
        "settings": settings,
        "returns": len(records),
        "chunks absent": {
            "least": min(absent),
            "mean": float(np.mean(absent)),
            "most": max(absent),
        },
        "chance": CHANCE,
        "pool_bytes": pools,
        **summary(records),
        "intervals": "95 %: Wilson for shares, percentile bootstrap over cases for means "
        "and paired differences",
        **run_context(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)
