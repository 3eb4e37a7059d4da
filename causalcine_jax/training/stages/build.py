"""From a config to what the loop runs on: networks, data and loss of each stage, and how its model is written.

teacher_forcing   latents from a store (made first where it is missing) -> transformer and text encoder; from a pretrained model (config.init)
                  the text encoder may stay as it is: it then embeds each batch's prompts in the dtype of the run, outside the gradient
autoencoder       clips painted while training -> VAE, whose latents' mean and std are measured when it is written
ode_init, dmd     a few-step student from a teacher (distillation_stages.py)
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from causalcine_jax.convert import (
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    load_vae,
    save_model,
)
from causalcine_jax.data.clips import Clips, clip_batches, paint
from causalcine_jax.data.encode_command import tokenizer_of
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.parallel.processes import gather_to_host
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.film_data import (
    HELD_OUT_SEED,
    check_store,
    film_loader,
    film_vae,
    held_out_batches,
    open_store,
    rollout_facts,
    vae_folder,
)
from causalcine_jax.training.sample import sample_film
from causalcine_jax.training.stages.autoencoder import autoencoder_loss, latent_statistics
from causalcine_jax.training.stages.distillation import dmd_stage, ode_init_stage
from causalcine_jax.training.stages.teacher_forcing import TeacherForcing, teacher_forcing_loss
from causalcine_jax.training.state import Nets, Stage, Update

STATISTICS_BATCHES = 32


def make_stage(config: TrainConfig) -> Stage:
    """The stage that config.stage names, with its data open. `UsageError` where networks, data and config do not fit together."""
    stages = {
        "teacher_forcing": _teacher_forcing,
        "autoencoder": _autoencoder,
        "ode_init": ode_init_stage,
        "dmd": dmd_stage,
    }
    return stages[config.stage](config)


def _teacher_forcing(config: TrainConfig) -> Stage:
    init = Path(config.init) if config.init else None
    if init and not init.exists():
        raise DataError(f"no model at {init} (init): there is no such file or folder")
    tokenizer = load_tokenizer(init) if init else tokenizer_of(vae_folder(config))
    # What is not trained needs no float32 copy: UMT5-XXL is 11 GB in the bfloat16 of its checkpoint.
    text_dtype = jnp.float32 if config.train_text_encoder else jnp.dtype(config.dtype)
    mesh = make_mesh(config.seq)
    text_encoder = (
        load_text_encoder(init, text_dtype, mesh=mesh)
        if init
        else lambda key: UMT5Encoder(config.text_encoder, key=key)
    )
    transformer = (
        load_transformer(init, mesh=mesh)
        if init
        else lambda key: Transformer(config.transformer, key=key)
    )
    sizes, text_sizes = (
        (transformer.config, text_encoder.cfg)
        if init
        else (config.transformer, config.text_encoder)
    )
    if tokenizer.size > text_sizes.vocab_size:
        raise UsageError(
            f"text_encoder.vocab_size {text_sizes.vocab_size} is too small for the tokenizer's {tokenizer.size} ids"
        )
    if sizes.text_dim != text_sizes.dim:
        raise UsageError(
            f"{init}: its transformer reads text of width {sizes.text_dim}, its text encoder gives {text_sizes.dim}"
        )
    vae = film_vae(config)
    store = open_store(config, sizes.text_len)
    check_store(config, store, vae, tokenizer, sizes)
    loader = film_loader(config, store, tokenizer)
    task = teacher_forcing_task(config, tuple(tokenizer([""], store.spec.text_len)[0][0].tolist()))
    nets = {"transformer": transformer, "text_encoder": text_encoder}
    fixed = {} if config.train_text_encoder else {"text_encoder": nets.pop("text_encoder")}
    sampler = {
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "shift": config.time.shift,
    }
    defaults = rollout_facts(config, store, vae, init) | {"sampler": sampler}

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        dtype = jnp.dtype(config.checkpoint.export_dtype)
        save_model(
            folder,
            **fixed,
            **trained,
            vae=vae,
            tokenizer=tokenizer,
            dtype=dtype,
            metadata=defaults | facts,
        )

    return Stage(
        trained=nets,
        fixed=fixed,
        updates=(Update(teacher_forcing_loss(task), tuple(nets), config.optim),),
        batches=loader,
        export=export,
        sample=functools.partial(sample_film, world=config.world, seed=config.seed)
        if vae
        else None,
        bad=lambda: len(loader.bad_records),
        held_out=held_out_batches(config, vae, tokenizer, sizes),
        notes=(
            f"{store.spec.films} films of {store.spec.latent_frames} latent frames in {store.path}",
        ),
    )


def teacher_forcing_task(config: TrainConfig, null_prompt: tuple[int, ...]) -> TeacherForcing:
    """What the loss needs beside networks and data."""
    return TeacherForcing(
        null_prompt=null_prompt,
        memory=config.memory,
        time=config.time,
        chunk_frames=config.chunk_frames,
        caption_dropout=config.caption_dropout,
        **config.saving,
    )


def _autoencoder(config: TrainConfig) -> Stage:
    make = load_vae(config.init) if config.init else lambda key: VAE(config.vae, key=key)
    sizes = make.cfg if config.init else config.vae
    world, frames = config.world, sizes.temporal_stride * (config.data.clip_frames - 1) + 1
    if frames > world.frames:
        raise UsageError(
            f"data.clip_frames {config.data.clip_frames} is more than a film of {world.latent_frames} latent frames"
        )
    height, width = (
        config.autoencoder.crop if any(config.autoencoder.crop) else (world.height, world.width)
    )
    if (
        height > world.height
        or width > world.width
        or height % sizes.spatial_stride
        or width % sizes.spatial_stride
    ):
        raise UsageError(
            f"autoencoder.crop {height}x{width} must be multiples of {sizes.spatial_stride}, the VAE's spatial stride, "
            f"within a film's {world.height}x{world.width}"
        )
    shape = {"frames": frames, "cuts": config.autoencoder.cuts, "height": height, "width": width}
    clips = Clips(world, config.data.seed, **shape, per_story=config.data.clips_per_story)
    index, count = own_part(make_mesh(config.seq))
    parts = {"seed": config.seed, "process_index": index, "process_count": count}
    held_out = ()
    if config.held_out.every:
        unseen = clip_batches(
            Clips(world, config.data.seed + HELD_OUT_SEED, **shape), config.batch // count, **parts
        )
        held_out = tuple(itertools.islice(unseen, config.held_out.films // config.batch))
    if config.batch // count % clips.per_story:
        raise UsageError(
            f"data.clips_per_story {clips.per_story} does not divide a process's batch of {config.batch // count}"
        )

    def loss(trained: Nets, fixed: Nets, batch, key):
        video = paint(batch, height, width)
        value, metrics = autoencoder_loss(trained["vae"], video, key, config.autoencoder)
        return value, {
            name: (jnp.asarray(metric, jnp.float32), jnp.ones(()))
            for name, metric in metrics.items()
            if name != "loss"
        }

    def measured(vae: VAE) -> VAE:
        """The same weights with the mean and std of their latents, over whole frames of clips that were not trained on."""
        held_out = clip_batches(
            Clips(world, config.data.seed + 1, frames), config.batch, seed=config.seed
        )
        painted: Iterator = (
            jax.jit(paint, static_argnums=(1, 2))(next(held_out), world.height, world.width)
            for _ in range(STATISTICS_BATCHES)
        )
        sizes = latent_statistics(vae, painted)
        like = jax.eval_shape(lambda: VAE(sizes, key=jax.random.key(0)))
        return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(vae))

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        vae = measured(
            jax.device_put(jax.tree.map(gather_to_host, trained["vae"]), jax.local_devices()[0])
        )
        save_model(folder, vae=vae, dtype=jnp.dtype(config.checkpoint.export_dtype), metadata=facts)

    return Stage(
        trained={"vae": make},
        fixed={},
        updates=(Update(loss, ("vae",), config.optim),),
        batches=clip_batches(clips, config.batch // count, **parts, workers=config.data.workers),
        export=export,
        held_out=held_out,
    )
