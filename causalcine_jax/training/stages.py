"""From a config to what the loop runs on: networks, data and loss of each stage, and how its model is written.

teacher_forcing   latents from a store (made first where it is missing) -> transformer and text encoder; from a pretrained model (config.init)
                  the text encoder may stay as it is: it then embeds each batch's prompts in the dtype of the run, outside the gradient
autoencoder       clips painted while training -> VAE, whose latents' mean and std are measured when it is written
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp

from causalcine_jax.cli import cores
from causalcine_jax.convert import load_text_encoder, load_transformer, load_vae, save_model
from causalcine_jax.convert.formats import holds
from causalcine_jax.data.clips import Clips, clip_batches, paint
from causalcine_jax.data.encode import tokenizer_hash, vae_hash
from causalcine_jax.data.encode_command import EncodeConfig, encode_storyworld, tokenizer_of
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.storyworld.world import FPS
from causalcine_jax.errors import DataError, UsageError, raise_faults
from causalcine_jax.generation.model_folder import EMBEDDED, model_defaults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.tokenizer import Tokenizer
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE
from causalcine_jax.training.autoencoder import AutoencoderLossConfig, autoencoder_loss, latent_statistics
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.sample import sample_film
from causalcine_jax.training.state import Nets, Stage
from causalcine_jax.training.teacher_forcing import TeacherForcing, teacher_forcing_loss

STATISTICS_BATCHES = 32


def make_stage(config: TrainConfig) -> Stage:
    """The stage that config.stage names, with its data open. `UsageError` where networks, data and config do not fit together."""
    return {"teacher_forcing": _teacher_forcing, "autoencoder": _autoencoder}[config.stage](config)


def _teacher_forcing(config: TrainConfig) -> Stage:
    init = Path(config.init) if config.init else None
    if init and not init.exists():
        raise DataError(f"no model at {init} (init): there is no such file or folder")
    tokenizer = Tokenizer.load(init) if init else tokenizer_of(vae_folder(config))
    # What is not trained needs no float32 copy: UMT5-XXL is 11 GB in the bfloat16 of its checkpoint.
    text_dtype = jnp.float32 if config.train_text_encoder else jnp.dtype(config.dtype)
    text_encoder = load_text_encoder(init, text_dtype) if init else lambda key: UMT5Encoder(config.text_encoder, key=key)
    transformer = load_transformer(init) if init else lambda key: Transformer(config.transformer, key=key)
    sizes, text_sizes = (transformer.config, text_encoder.cfg) if init else (config.transformer, config.text_encoder)
    if tokenizer.size > text_sizes.vocab_size:
        raise UsageError(f"text_encoder.vocab_size {text_sizes.vocab_size} is too small for the tokenizer's {tokenizer.size} ids")
    if sizes.text_dim != text_sizes.dim:
        raise UsageError(f"{init}: its transformer reads text of width {sizes.text_dim}, its text encoder gives {text_sizes.dim}")
    vae = _vae(config)
    store = open_store(config, sizes.text_len)
    _check_store(config, store, vae, tokenizer, sizes)
    loader = Loader(
        store,
        config.batch // jax.process_count(),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    task = TeacherForcing(
        null_prompt=tuple(tokenizer([""], store.spec.text_len)[0][0].tolist()),
        memory=config.memory,
        time=config.time,
        chunk_frames=config.chunk_frames,
        caption_dropout=config.caption_dropout,
        remat=config.remat,
    )
    nets = {"transformer": transformer, "text_encoder": text_encoder}
    fixed = {} if config.train_text_encoder else {"text_encoder": nets.pop("text_encoder")}
    stride = vae.cfg.spatial_stride if vae else 8
    video = {"fps": FPS, "width": store.spec.width * stride, "height": store.spec.height * stride}
    sampler = {"steps": config.sample.steps, "guidance": config.sample.guidance, "shift": config.time.shift}

    # A pretrained model's guidance goes on steering away from what it always did.
    inherited = {name: said for name, said in model_defaults(init).items() if name in ("negative", "dtype")} if init else {}

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        facts = {
            **inherited, "video": video, "memory": asdict(config.memory), "sampler": sampler, "chunk_frames": config.chunk_frames, **facts
        }  # fmt: skip
        save_model(
            folder, **fixed, **trained, vae=vae, tokenizer=tokenizer, dtype=jnp.dtype(config.checkpoint.export_dtype), metadata=facts
        )

    return Stage(
        trained=nets,
        fixed=fixed,
        loss=teacher_forcing_loss(task),
        batches=loader,
        export=export,
        sample=functools.partial(sample_film, world=config.world, seed=config.seed) if vae else None,
        bad=lambda: len(loader.bad_records),
        notes=(f"{store.spec.films} films of {store.spec.latent_frames} latent frames in {store.path}",),
    )


def vae_folder(config: TrainConfig) -> Path:
    """The model whose VAE makes the latents: data.vae, else the one that the run starts from, else the embedded one."""
    if config.data.vae:
        return Path(config.data.vae)
    return Path(config.init) if config.init and holds(Path(config.init), "vae") else EMBEDDED


def _vae(config: TrainConfig) -> VAE | None:
    """The VAE of the store and of the exported model. None where none is named and this installation has no embedded one."""
    folder = vae_folder(config)
    return load_vae(folder) if config.data.vae or holds(folder, "vae") else None


def open_store(config: TrainConfig, text_len: int) -> LatentStore | MixedStore:
    """The latent stores that config.data names; encodes config.data.films films first where only one is named and is not there or not whole."""
    several = [part.strip() for part in config.data.store.split(",")]
    if len(several) > 1:
        return MixedStore([LatentStore.open(part) for part in several])
    path, model = Path(config.data.store or Path(config.out) / "latents"), vae_folder(config)
    if path.is_dir():
        return LatentStore.open(path)
    if not holds(model, "vae"):
        raise UsageError(f"there is no latent store {path}, and no VAE to make one: name a model folder with vae/ as data.vae")
    print(f"encoding {config.data.films} films into {path}", flush=True)
    processes = len(cores()) if jax.default_backend() == "cpu" else 1
    wanted = {"world": config.data.world, "seed": config.data.seed, "films": config.data.films, "text_len": text_len}
    return encode_storyworld(EncodeConfig(model, path, processes=processes, **wanted))


def _check_store(config: TrainConfig, store: LatentStore | MixedStore, vae: VAE | None, tokenizer: Tokenizer, sizes) -> None:
    spec, faults = store.spec, []
    if vae is not None and spec.vae and spec.vae != vae_hash(vae):
        faults.append(f"its latents are of another VAE than {vae_folder(config)} (data.vae)")
    if spec.tokenizer and spec.tokenizer != tokenizer_hash(tokenizer):
        faults.append("its token ids are of another tokenizer")
    if spec.text_len > sizes.text_len:
        faults.append(f"its prompts have {spec.text_len} tokens, transformer.text_len is {sizes.text_len}")
    if spec.channels != sizes.in_dim:
        faults.append(f"its latents have {spec.channels} channels, transformer.in_dim is {sizes.in_dim}")
    if spec.chunk_frames != config.chunk_frames:
        faults.append(f"its chunks have {spec.chunk_frames} frames, chunk_frames is {config.chunk_frames}")
    raise_faults(f"latent store {store.path}", faults)


def _autoencoder(config: TrainConfig) -> Stage:
    make = load_vae(config.init) if config.init else lambda key: VAE(config.vae, key=key)
    sizes = make.cfg if config.init else config.vae
    world, frames = config.world, sizes.temporal_stride * (config.data.clip_frames - 1) + 1
    if frames > world.frames:
        raise UsageError(f"data.clip_frames {config.data.clip_frames} is more than a film of {world.latent_frames} latent frames")
    clips = Clips(world, config.data.seed, frames)
    weights = AutoencoderLossConfig(kl=config.autoencoder.kl, edge=config.autoencoder.edge)
    part = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def loss(trained: Nets, fixed: Nets, batch, key):
        video = paint(batch, world.height, world.width)
        value, metrics = autoencoder_loss(trained["vae"], video, key, weights)
        return value, {name: (jnp.asarray(metric, jnp.float32), jnp.ones(())) for name, metric in metrics.items() if name != "loss"}

    def measured(vae: VAE) -> VAE:
        """The same weights with the mean and std of their latents, over clips that were not trained on."""
        held_out = clip_batches(Clips(world, config.data.seed + 1, frames), config.batch, seed=config.seed)
        painted: Iterator = (
            jax.jit(paint, static_argnums=(1, 2))(next(held_out), world.height, world.width) for _ in range(STATISTICS_BATCHES)
        )
        sizes = latent_statistics(vae, painted)
        like = jax.eval_shape(lambda: VAE(sizes, key=jax.random.key(0)))
        return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(vae))

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        vae = measured(jax.device_put(trained["vae"], jax.local_devices()[0]))
        save_model(folder, vae=vae, dtype=jnp.dtype(config.checkpoint.export_dtype), metadata=facts)

    return Stage(
        trained={"vae": make},
        fixed={},
        loss=loss,
        batches=clip_batches(clips, config.batch // jax.process_count(), seed=config.seed, workers=config.data.workers, **part),
        export=export,
    )
