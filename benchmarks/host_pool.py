"""Counts the frames that memory retrieves from a history in host memory, and those to copy.

    python benchmarks/host_pool.py --story examples/demo.yaml --story examples/lullaby.yaml \\
        > host_pool.json

Generates each story's film by generate.py's rollout, and counts in every pass of every layer.
Prints one JSON object, with numbers per story over all chunks, and over its second half:

    held     frames that memory retrieved, per layer and chunk (all passes together)
    missing  those copied from host memory
    near     the fraction that was on the device already

`missing` also has other choices of what is kept on the device: only the chunk behind the window,
only what the last commit retrieved, or nothing.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sources import run_context
from causalcine_jax.cli import run
from causalcine_jax.config import PoolConfig
from causalcine_jax.diffusion.solvers import sample
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film.pool import closed_pool_size
from causalcine_jax.film.rollout import chunk_pass, segment
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.film.state import chunk_noise, roll_chunk
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.receptive_field import ReceptiveField
from causalcine_jax.story import read_story

KEPT = ("near", "chunk behind the window", "last commit's", "nothing")


class Counting:
    """Counts frames in `counts`, a row per chunk, over all passes, layers and histories.

    A row has the frames that memory retrieved, then those missing for each entry of `KEPT`.
    """

    def __init__(self):
        self.counts: list[np.ndarray] = []

    def roll(self, model, state, context, settings, *, latents=None):
        number = jnp.int32(state.chunk)
        noise, key = chunk_noise(model, state, settings)
        how = {"sampler": settings.sampler, "memory": settings.memory}
        x0, denoising, commit = counted(
            model.transformer, state.cache, noise, context, number, key, **how
        )
        self.counts.append(np.asarray(denoising.sum(axis=0) + commit))
        return roll_chunk(model, state, context, settings, latents=x0)


@partial(jax.jit, static_argnames=("sampler", "memory"))
def counted(net, pool: KVCache, noise, context, index, key, *, sampler, memory):
    """Returns (x0, missing frames of every step, of the commit)."""
    missing = partial(frames_missing, pool, memory.window_chunks * pool.chunk_frames)

    def velocity(x, t):
        out = chunk_pass(net, pool, segment(x, t, index), context, memory, keep_field=True)
        assert out.field is not None  # kept
        return out.velocity, missing(out.field)

    x0, denoising = sample(velocity, noise, sampler, key, has_aux=True)
    films = jnp.concatenate([x0] * context.k.shape[1])
    clean = chunk_pass(net, pool, segment(films, 0.0, index), context, memory, keep_field=True)
    assert clean.field is not None
    return x0, denoising, missing(clean.field)


def frames_missing(pool: KVCache, window: int, field: ReceptiveField):
    """Returns how many frames memory retrieved, then how many of them each of `KEPT` lacks."""
    assert pool.copies is not None  # because the pool is in host memory
    wanted, near = field.frame[:, 0, :, window:], pool.copies.frame
    newest = pool.copies.chunks * pool.chunk_frames
    among = lambda kept: jnp.any(wanted[..., None] == kept[:, :, None], axis=-1)
    held = wanted >= 0
    kept = (among(near), among(near[..., :newest]), among(near[..., newest:]), False)
    return jnp.stack([jnp.sum(held), *(jnp.sum(held & ~there) for there in kept)])


def film(model, path: Path) -> dict:
    counting, config = Counting(), model.transformer.config
    pool, functions = PoolConfig(on="host"), RolloutFunctions(closed_pool_size, roll=counting.roll)
    director = Director(model, read_story(path), pool=pool, functions=functions)
    for _ in director:
        pass
    per_layer = np.stack(counting.counts) / (config.num_layers * director.settings.histories)

    def means(rows: np.ndarray) -> dict:
        held, *missing = rows.mean(axis=0).tolist()
        return {
            "held": held,
            "missing": dict(zip(KEPT, missing, strict=True)),
            "near": 1 - missing[0] / held if held else None,
        }

    return {
        "chunks": len(per_layer),
        "passes": director.settings.sampler.steps + 1,
        "per layer and chunk": means(per_layer),
        "per layer and chunk, second half": means(per_layer[len(per_layer) // 2 :]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded student)")
    parser.add_argument(
        "--story", type=Path, action="append", required=True, help="may be given more than once"
    )
    flags = parser.parse_args()
    model = load_model(flags.model)
    result = {
        "benchmark": "host_pool",
        "films": {path.stem: film(model, path) for path in flags.story},
        **run_context(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)
