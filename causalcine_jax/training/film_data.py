"""The films of a run: their latent store, its VAE, its batches, and metadata of a trained model."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from causalcine_jax.cli import cores
from causalcine_jax.clock import FPS
from causalcine_jax.convert import load_vae
from causalcine_jax.convert.find import holds
from causalcine_jax.data.encode import tokenizer_hash, vae_hash
from causalcine_jax.data.encode_command import encode_storyworld
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.film_parts import FilmParts
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader, OwnPart, Visit
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.retelling import Retelling
from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.film.chosen_model import EMBEDDED
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.parallel.gathering import several
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.storyworld.world import WorldConfig
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.known_prompts import known_prompts
from causalcine_jax.utils.machine_memory import GB, memory_size

HELD_OUT_OFFSET = 1_000  # added to data.seed: the stories of another collection


def vae_folder(config: TrainConfig) -> Path:
    """The model whose VAE makes the latents.

    It is data.vae, else the teacher or init if it holds a VAE, else the embedded model.
    """
    if config.data.vae:
        return Path(config.data.vae)
    begun = config.teacher or config.init
    return Path(begun) if begun and holds(Path(begun), "vae") else EMBEDDED


def film_vae(config: TrainConfig) -> VAE | None:
    """The VAE of the store and of the exported model.

    None if none is named and this installation has no embedded one.
    """
    folder = vae_folder(config)
    return load_vae(folder) if config.data.vae or holds(folder, "vae") else None


def open_store(
    config: TrainConfig, vae: VAE | None, sizes: TransformerConfig
) -> LatentStore | MixedStore:
    """The latent stores that config.data names.

    A single store inside config.out that is missing or incomplete is made first. `UsageError` if
    host memory has no room for a batch of it. `sizes` are the transformer's.
    """
    if mixed := _several_stores(config.data.store):
        return mixed
    return _one_store(
        config,
        Path(config.data.store or Path(config.out) / "latents"),
        config.data.films,
        config.data.seed,
        vae,
        sizes,
    )


def _several_stores(text: str) -> MixedStore | None:
    """The stores of `text`, joined by commas, as one; None if it names no more than one."""
    paths = [part.strip() for part in text.split(",")]
    return MixedStore([LatentStore.open(path) for path in paths]) if len(paths) > 1 else None


def held_out_batches(
    config: TrainConfig, vae: VAE | None, tokenizer: Tokenizer, sizes
) -> tuple[dict, ...]:
    """This process's part of all batches of config.held_out's films, in the order of their store.

    Raises as `check_store` does.
    """
    if not config.held_out.every:
        return ()
    store = _several_stores(config.held_out.store) or _one_store(
        config,
        Path(config.held_out.store),
        config.held_out.films,
        config.data.seed + HELD_OUT_OFFSET,
        vae,
        sizes,
    )
    check_store(config, store, vae, tokenizer, sizes)
    if len(store) < config.held_out.films:
        raise UsageError(
            f"held_out.films: {config.held_out.films} are asked for, {store.path} has {len(store)}"
        )
    told = dataclasses.replace(
        config, data=dataclasses.replace(config.data, retell=False, return_weight=1.0)
    )
    with film_loader(told, store, visits_of(told, store, tokenizer)) as loader:
        return tuple(itertools.islice(loader, config.held_out.films // config.batch))


def _one_store(
    config: TrainConfig,
    path: Path,
    films: int,
    seed: int,
    vae: VAE | None,
    sizes: TransformerConfig,
) -> LatentStore:
    """The store at `path`.

    One inside config.out that is missing or incomplete is made first, with `films` films. Another
    one is an input of the run, so it must be there.
    """
    if path.is_dir():
        return LatentStore.open(path)
    model = vae_folder(config)
    if config.data.embeddings:
        raise UsageError(
            f"there is no latent store {path}, and data.embeddings needs one whose prompts are "
            "embedded: make it by causalcine encode or prepare, then run causalcine embed"
        )
    if not holds(model, "vae"):
        raise UsageError(
            f"there is no latent store {path}, and no VAE to make one: "
            "name a model folder with vae/ as data.vae"
        )
    text_len = sizes.text_len
    command = (
        f"causalcine encode --model {model} --out {path} --world {config.data.world} "
        f"--seed {seed} --films {films} --text-len {text_len}"
    )
    if several():
        raise UsageError(
            f"there is no latent store {path}, and several processes cannot make one: "
            f"run {command} first"
        )
    if not path.resolve().is_relative_to(Path(config.out).resolve()):
        raise UsageError(
            f"there is no latent store {path}, and a run makes one only inside its out, "
            f"{config.out}: run {command} first"
        )
    # Before films are encoded, which takes an hour.
    check_batch_room(config.batch, config.batch * _latent_bytes(config.world, vae, sizes))
    print(f"encoding {films} films into {path}", flush=True)
    processes = len(cores()) if jax.default_backend() == "cpu" else 1
    wanted = EncodeConfig(
        model, path, config.data.world, seed, films, processes=processes, text_len=text_len
    )
    return encode_storyworld(wanted)


def _latent_bytes(world: WorldConfig, vae: VAE | None, sizes: TransformerConfig) -> int:
    """Bytes of the latents of a film that is not encoded yet."""
    stride = spatial_stride(vae)
    height, width = world.height // stride, world.width // stride
    return 2 * world.latent_frames * height * width * sizes.in_dim


def spatial_stride(vae: VAE | None) -> int:
    """Pixels of a latent's side."""
    return vae.cfg.spatial_stride if vae else VAEConfig().spatial_stride


def check_store(
    config: TrainConfig,
    store: LatentStore | MixedStore,
    vae: VAE | None,
    tokenizer: Tokenizer,
    sizes,
) -> None:
    """`UsageError` listing everything in which the store does not fit the run.

    `sizes` are the transformer's.
    """
    spec, faults = store.spec, []
    if vae is not None and spec.vae and spec.vae != vae_hash(vae):
        faults.append(f"its latents are of another VAE than {vae_folder(config)} (data.vae)")
    if spec.tokenizer and spec.tokenizer != tokenizer_hash(tokenizer):
        faults.append("its token ids are of another tokenizer")
    if spec.text_len > sizes.text_len:
        faults.append(
            f"its prompts have {spec.text_len} tokens, transformer.text_len is {sizes.text_len}"
        )
    if spec.channels != sizes.in_dim:
        faults.append(
            f"its latents have {spec.channels} channels, transformer.in_dim is {sizes.in_dim}"
        )
    if spec.chunk_frames != config.chunk_frames:
        faults.append(
            f"its chunks have {spec.chunk_frames} frames, chunk_frames is {config.chunk_frames}"
        )
    fewest = min(each.chunks for each in store.sizes)
    if config.data.chunks > fewest:
        faults.append(f"its films have {fewest} chunks, data.chunks is {config.data.chunks}")
    raise_faults(f"latent store {store.path}", faults)


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


def check_batch_room(batch: int, fewest_bytes: int) -> None:
    """`UsageError` if this machine has no room for its part of a batch, of at least that size."""
    room = memory_size()
    if room is not None and fewest_bytes > room:
        raise UsageError(
            f"out of memory: batch={batch:,} takes at least {fewest_bytes:,} bytes of host memory, "
            f"{fewest_bytes / GB:.3g} GB, and this process may take {room:,}: lower batch"
        )


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
