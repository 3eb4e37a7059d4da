"""The latent stores of a run: opened, or made inside its out, and whether they fit the run."""

from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from causalcine_jax.cli import cores
from causalcine_jax.convert import load_vae
from causalcine_jax.convert.find import holds
from causalcine_jax.data.encode import tokenizer_hash, vae_hash
from causalcine_jax.data.encode_command import encode_storyworld
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import UsageError, listed, raise_faults
from causalcine_jax.film.chosen_model import EMBEDDED
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.parallel.gathering import several
from causalcine_jax.storyworld.world import WORLDS, WorldConfig
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.utils.machine_memory import GB, memory_size


@dataclass(frozen=True)
class OwnFilms:
    """The films of StoryWorld that a run makes itself where a store is missing.

    part   of the config that names their store: data or held_out
    films  how many
    seed   of their stories
    """

    part: str
    films: int
    seed: int

    @property
    def flag(self) -> str:
        return f"--config.{self.part}.store"


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
    return named_store(
        config,
        config.data.store or str(Path(config.out) / "latents"),
        OwnFilms("data", config.data.films, config.data.seed),
        vae,
        sizes,
    )


def named_store(
    config: TrainConfig,
    named: str,
    wanted: OwnFilms,
    vae: VAE | None,
    sizes: TransformerConfig,
) -> LatentStore | MixedStore:
    """The store at `named`, or several joined by commas as one.

    A single one inside config.out that is missing or incomplete is made first, with the films
    `wanted`. Another one is an input of the run, so it must be there.
    """
    paths = [part.strip() for part in named.split(",")]
    if len(paths) > 1:
        return MixedStore([LatentStore.open(path) for path in paths])
    path = Path(paths[0])
    if path.is_dir():
        store = LatentStore.open(path)
        _check_wanted(config, store, wanted)
        return store
    return _made_store(config, path, wanted, vae, sizes)


def _is_own(config: TrainConfig, path: Path) -> bool:
    """Whether a run makes this store: it lies inside config.out."""
    return path.resolve().is_relative_to(Path(config.out).resolve())


def _check_wanted(config: TrainConfig, store: LatentStore, wanted: OwnFilms) -> None:
    """`UsageError` if a store that a run makes holds other films of StoryWorld than `wanted`."""
    source, asked = store.spec.source, asdict(config.world)
    if "storyworld" not in source or not _is_own(config, store.path):
        return
    faults, world = [], source["storyworld"]
    if any(asked.get(name) != value for name, value in world.items()):
        names = [name for name, make in WORLDS.items() if asdict(make()) == world]
        is_of = f"world {names[0]}" if names else "another world"
        faults.append(f"its films are of {is_of}, data.world is {config.data.world}")
    if source["seed"] != wanted.seed:
        faults.append(f"their seed is {source['seed']}, the config asks for {wanted.seed}")
    if len(store) != wanted.films:
        faults.append(f"it has {len(store)} films, {wanted.part}.films is {wanted.films}")
    if faults:
        raise UsageError(
            f"latent store {store.path}: {listed(faults)}. Correct the config; or delete the "
            "store, and the run makes it anew"
        )


def _made_store(
    config: TrainConfig,
    path: Path,
    wanted: OwnFilms,
    vae: VAE | None,
    sizes: TransformerConfig,
) -> LatentStore:
    """The store at `path`, made now. `UsageError` with the command to give if it cannot be."""
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
        f"--seed {wanted.seed} --films {wanted.films} --text-len {text_len}"
    )
    if several():
        raise UsageError(
            f"there is no latent store {path}, and several processes cannot make one: "
            f"run {command} first"
        )
    if not _is_own(config, path):
        raise UsageError(
            f"there is no latent store {path}, and a run makes one only inside its out, "
            f"{config.out}: run {command} first"
        )
    # Before films are encoded, which takes an hour.
    check_batch_room(config.batch, config.batch * _latent_bytes(config.world, vae, sizes))
    print(f"encoding {wanted.films} films into {path}", flush=True)
    processes = len(cores()) if jax.default_backend() == "cpu" else 1
    request = EncodeConfig(
        model,
        path,
        config.data.world,
        wanted.seed,
        wanted.films,
        processes=processes,
        text_len=text_len,
    )
    return encode_storyworld(request, flag=wanted.flag)


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


def check_batch_room(batch: int, fewest_bytes: int) -> None:
    """`UsageError` if this machine has no room for its part of a batch, of at least that size."""
    room = memory_size()
    if room is not None and fewest_bytes > room:
        raise UsageError(
            f"out of memory: batch={batch:,} takes at least {fewest_bytes:,} bytes of host memory, "
            f"{fewest_bytes / GB:.3g} GB, and this process may take {room:,}: lower batch"
        )
