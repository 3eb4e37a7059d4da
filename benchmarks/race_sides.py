"""One film of a race, by one side, in a process of its own.

It gives the seconds of every chunk, the memory, and the film's latents as a file.

    race_inputs -> weights, prompt and noise, in a file --> race_ours, race_theirs -> film.npy

A chunk's seconds are from its noise until its clean keys and values are in the cache.
They leave out decoding and compiling: a chunk that compiled a program is made again, with
the same result, and the second time counts.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.race_cases import CHUNK_FRAMES, PEER, STEP_LIST, RaceCase
from benchmarks.settings import random_like, random_network
from benchmarks.timing import memory
from causalcine_jax.cli import cores
from causalcine_jax.config import PoolConfig
from causalcine_jax.convert import tables
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import new_state, noise_of, roll_latents, text_context
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig

SEED = 0
STEPS = len(STEP_LIST)
COMPILED = "/jax/core/compile/backend_compile_duration"


def race_inputs(case: dict, dtype: str, file: str) -> dict:
    """Writes the inputs of both sides to `file` (.npz, float32).

    They are weights under Wan2.1's names, `text`, and all chunks' `noise` and `fresh` noise.
    """
    asked = RaceCase.from_dict(case)
    network = _network(asked, dtype)
    parameters = {
        path: np.asarray(leaf, np.float32) for path, leaf in tables.parameters(network).items()
    }
    places = tables.places(network, tables.TRANSFORMER, asked.network.patch_size)
    weights = {place.key: place.to_torch(parameters[place.path]) for place in places}
    key, shape = jax.random.key(SEED), asked.chunk_shape
    chunks = [noise_of(key, jnp.int32(index), shape) for index in range(asked.chunks)]
    renoised = lambda key: [
        jax.random.normal(jax.random.fold_in(key, step), shape)[0] for step in range(STEPS - 1)
    ]
    arrays: dict[str, Any] = {
        "text": _text(asked, dtype)[0].astype(jnp.float32),
        "noise": np.array([noise[0] for noise, _ in chunks]),
        "fresh": np.array([renoised(key) for _, key in chunks]),
        **weights,
    }
    np.savez(file, **arrays)
    return {"parameters": sum(tensor.size for tensor in weights.values())}


def race_ours(case: dict, dtype: str, film: str) -> dict:
    """Makes the film by the rollout that generation uses."""
    asked = RaceCase.from_dict(case)
    network, text = _network(asked, dtype), _text(asked, dtype)
    sizes = VAEConfig()
    vae = jax.eval_shape(lambda: VAE(sizes, key=jax.random.key(0)))  # nothing is decoded
    stride, (height, width) = sizes.spatial_stride, asked.chunk_shape[2:4]
    model = Model(network, vae, None, None, chunk_frames=CHUNK_FRAMES, dtype=dtype)
    pool = PoolConfig(asked.chunks * CHUNK_FRAMES)
    settings = FilmSettings(PEER.sampler, asked.memory, pool, stride * height, stride * width, SEED)
    state = new_state(model, settings)
    context = jax.block_until_ready(text_context(network, text))
    compiled: list[str] = []

    def noted(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(noted)

    def chunk(index: int) -> tuple[np.ndarray, float]:
        nonlocal state
        while True:
            compiled.clear()
            start = time.perf_counter()
            state = dataclasses.replace(state, chunk=index)
            state, made = roll_latents(model, state, context, settings)
            latents = np.asarray(made.latents[0])
            seconds = time.perf_counter() - start
            if not compiled:
                return latents, seconds

    return _film([chunk(index) for index in range(asked.chunks)], film, memory())


def race_theirs(case: dict, dtype: str, inputs: str, film: str) -> dict:
    """Makes the film by Self-Forcing's rollout in torch."""
    import torch

    from benchmarks.self_forcing_torch import SelfForcingFilm

    asked, device = RaceCase.from_dict(case), "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(cores()))
    with np.load(inputs) as arrays:
        given = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    noise, fresh = (given.pop(name).to(device) for name in ("noise", "fresh"))
    given = {name: tensor.to(device, getattr(torch, dtype)) for name, tensor in given.items()}
    text = given.pop("text")
    new_film = lambda: SelfForcingFilm(given, asked.network, asked.grid, asked.theirs, text)

    def chunk(made: SelfForcingFilm, index: int) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        latents = (
            made.chunk(noise[index], fresh[index], index * CHUNK_FRAMES, PEER.sampler).cpu().numpy()
        )
        return latents, time.perf_counter() - start

    chunk(new_film(), 0)  # warms up, as making a chunk again does for our side
    made = new_film()
    chunks = [chunk(made, index) for index in range(asked.chunks)]
    counted: Mapping[str, Any] = (
        {"of": "device", "peak": torch.cuda.max_memory_allocated()}
        if device == "cuda"
        else memory()
    )
    return {**_film(chunks, film, counted), "torch": torch.__version__, "torch_device": device}


def _film(chunks: list[tuple[np.ndarray, float]], file: str, counted: Mapping[str, Any]) -> dict:
    """Writes the film, and returns its part of the record."""
    latents, seconds = zip(*chunks, strict=True)
    np.save(Path(file), np.stack(latents))
    return {"seconds": list(seconds), "memory": {"of": counted["of"], "peak": counted["peak"]}}


def _network(case: RaceCase, dtype: str) -> Transformer:
    return random_network(Transformer, (case.network,), jnp.dtype(dtype))


def _text(case: RaceCase, dtype: str) -> jax.Array:
    """Returns the embedded prompt [1, t, d]."""
    return random_like((1, case.network.text_len, case.network.text_dim), jnp.dtype(dtype))
