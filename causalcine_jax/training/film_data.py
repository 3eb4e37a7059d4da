"""The films of a run: their batches, those held out, and metadata of a trained model."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from causalcine_jax.clock import FPS
from causalcine_jax.data.film_parts import FilmParts
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader, OwnPart, Visit
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.retelling import Retelling
from causalcine_jax.errors import UsageError
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.film_stores import (
    OwnFilms,
    check_batch_room,
    check_store,
    named_store,
    spatial_stride,
)
from causalcine_jax.training.known_prompts import known_prompts

HELD_OUT_OFFSET = 1_000  # added to data.seed: the stories of another collection
HELD_OUT_ORDER = 0  # the seed that chooses and cuts held-out films


def held_out_batches(
    config: TrainConfig, vae: VAE | None, tokenizer: Tokenizer, sizes
) -> tuple[dict, ...]:
    """This process's part of all batches of config.held_out's films.

    Runs with other seeds have the same films, also where the store holds more. Raises as
    `check_store` does.
    """
    if not config.held_out.every:
        return ()
    wanted = OwnFilms("held_out", config.held_out.films, config.data.seed + HELD_OUT_OFFSET)
    store = named_store(config, config.held_out.store, wanted, vae, sizes)
    check_store(config, store, vae, tokenizer, sizes)
    if len(store) < config.held_out.films:
        raise UsageError(
            f"held_out.films: {config.held_out.films} are asked for, {store.path} has {len(store)}"
        )
    told = dataclasses.replace(
        config,
        seed=HELD_OUT_ORDER,
        data=dataclasses.replace(config.data, retell=False, return_weight=1.0),
    )
    with film_loader(told, store, visits_of(told, store, tokenizer)) as loader:
        return tuple(itertools.islice(loader, config.held_out.films // config.batch))


def films_note(config: TrainConfig, store: LatentStore | MixedStore) -> str:
    """What the films are, for the lines that a run begins with."""
    chunks = config.data.chunks
    parts = f", cut to parts of {chunks} chunks" if chunks else ""
    films = ", ".join(
        f"{len(alike)} films of {spec.latent_frames} latent frames of {spec.height}x{spec.width}"
        for alike, spec in zip(store.alike, store.sizes, strict=True)
    )
    return f"{films} in {store.path}{parts}"


def film_loader(
    config: TrainConfig, store: LatentStore | MixedStore, visits: Sequence[Visit]
) -> Loader:
    """This process's part of endless batches of the store.

    `UsageError` if host memory has no room for one.
    """
    index, count = own_part(make_mesh(config.seq))
    check_batch_room(
        config.batch, config.batch // count * max(each.film_bytes for each in store.sizes)
    )
    return Loader(
        store,
        config.batch // count,
        seed=config.seed,
        part=OwnPart(index, count, sharing=jax.process_count() // count),
        threads=config.data.threads,
        max_bad_fraction=config.data.max_bad_fraction,
        visits=visits,
    )


def visits_of(
    config: TrainConfig, store: LatentStore | MixedStore, tokenizer: Tokenizer
) -> list[Visit]:
    """What changes a record of `store`, or of trajectories over it, each time it is read.

    `UsageError` with data.embeddings, if the store has none of the run's text encoder.
    """
    data = config.data
    visits: list[Visit] = []
    if data.chunks:
        visits.append(FilmParts(data.chunks, config.chunk_frames))
    if data.retell:
        visits.append(Retelling(store.spec, tokenizer, data.return_weight))
    if data.embeddings:
        visits.append(known_prompts(config, store, tokenizer))
    return visits


def rollout_facts(
    config: TrainConfig, store: LatentStore | MixedStore, vae: VAE | None, begun: Path | None
) -> dict[str, Any]:
    """The exported model's metadata about rollouts, without its sampler.

    `begun` is the model that the run starts from, if any.
    """
    stride = spatial_stride(vae)
    # Guidance of a pretrained model keeps its negative prompt.
    inherited = (
        {
            name: said
            for name, said in model_defaults(begun).items()
            if name in ("negative", "dtype")
        }
        if begun
        else {}
    )
    return {
        **inherited,
        "video": {
            "fps": FPS,
            "width": store.spec.width * stride,
            "height": store.spec.height * stride,
        },
        "memory": asdict(config.memory),
        "chunk_frames": config.chunk_frames,
    }
