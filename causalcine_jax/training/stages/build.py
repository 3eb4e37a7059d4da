"""From a config to the stage that the loop trains: networks loaded, data open, and how to export.

    films of a latent store -> transformer and text encoder
    clips, painted while training -> VAE
    films and a teacher -> a few-step student (distillation.py)

A missing latent store is made first. With config.init, the text encoder may stay as it is; it then
embeds each batch's prompts in the dtype of the run. The mean and std of a VAE's latents are
measured when it is exported.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from causalcine_jax import convert
from causalcine_jax.data.clips import Clips, clip_batches, paint
from causalcine_jax.data.encode_command import tokenizer_of
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.training import film_data, film_stores
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.known_prompts import null_prompt, sizes_of
from causalcine_jax.training.sample import embed_ahead, sampling
from causalcine_jax.training.stages.adapters import adapter_bases, bases, export_adapters
from causalcine_jax.training.stages.autoencoder import TRAIN, in_parts, latent_statistics
from causalcine_jax.training.stages.distillation import student_stage
from causalcine_jax.training.stages.growth import grown
from causalcine_jax.training.stages.spec import stage_spec
from causalcine_jax.training.state import Nets, Stage

STATISTICS_BATCHES = 32


def make_stage(config: TrainConfig) -> Stage:
    """The stage that config.stage names, with its data open.

    `UsageError` where networks, data and config do not fit together.
    """
    if config.facts.student:
        return student_stage(config)
    return _on_clips(config) if config.facts.clips else _on_films(config)


def _on_films(config: TrainConfig) -> Stage:
    init = Path(config.init) if config.init else None
    if init and not init.exists():
        raise DataError(f"no model at {init} (init): there is no such file or folder")
    tokenizer = (
        convert.load_tokenizer(init) if init else tokenizer_of(film_stores.vae_folder(config))
    )
    embed_ahead(config, tokenizer)
    loaded, sized = _networks(config, init) if init else ({}, config)
    sizes, text_sizes = sized.transformer, sized.text_encoder
    if tokenizer.size > text_sizes.vocab_size:
        raise UsageError(
            f"text_encoder.vocab_size {text_sizes.vocab_size} is too small for the tokenizer's "
            f"{tokenizer.size} ids"
        )
    if sizes.text_dim != text_sizes.dim:
        raise UsageError(
            f"{init}: its transformer reads text of width {sizes.text_dim}, "
            f"its text encoder gives {text_sizes.dim}"
        )
    vae = film_stores.film_vae(config)
    store = film_stores.open_store(config, vae, sizes)
    film_stores.check_store(config, store, vae, tokenizer, sizes)
    loader = film_data.film_loader(config, store, film_data.visits_of(config, store, tokenizer))
    fixed = {} if config.train_text_encoder else {"text_encoder": loaded.get("text_encoder", init)}
    sampler = {
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "shift": config.time.shift,
    }
    defaults = film_data.rollout_facts(config, store, vae, init) | {"sampler": sampler}

    loaded = bases(loaded, config)
    adapted = adapter_bases(loaded)

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        convert.save_model(
            folder,
            **fixed,
            **export_adapters(trained, adapted, folder, config, config.init),
            vae=vae,
            tokenizer=tokenizer,
            dtype=jnp.dtype(config.checkpoint.export_dtype),
            metadata=defaults | facts,
        )

    sample, notes = sampling(sized, store.spec, tokenizer) if vae else (None, ())
    null = null_prompt(config, tokenizer, store.spec.text_len)
    return stage_spec(sized, tuple(null.tolist())).stage(
        loaded,
        batches=loader,
        export=export,
        sample=sample,
        bad=lambda: len(loader.bad_records),
        of_each_size=loader.of_each_size,
        held_out=film_data.held_out_batches(config, vae, tokenizer, sizes),
        notes=(film_data.films_note(config, store), *notes),
    )


def _networks(config: TrainConfig, init: Path) -> tuple[Nets, TrainConfig]:
    """Transformer and text encoder of `init`, and the config with their sizes.

    With data.embeddings there is no text encoder.
    """
    mesh = make_mesh(config.seq)
    transformer = grown(convert.load_transformer(init, mesh=mesh), config)
    if config.data.embeddings:
        _, text_sizes = sizes_of(init)
        sized = replace(config, transformer=transformer.config, text_encoder=text_sizes)
        return {"transformer": transformer}, sized
    # A text encoder that is not trained needs no float32 copy: UMT5-XXL is 11 GB in the bfloat16 of
    # its checkpoint.
    text_dtype = jnp.float32 if config.train_text_encoder else jnp.dtype(config.dtype)
    text_encoder = convert.load_text_encoder(init, text_dtype, mesh=mesh)
    sized = replace(config, transformer=transformer.config, text_encoder=text_encoder.cfg)
    return {"transformer": transformer, "text_encoder": text_encoder}, sized


def _on_clips(config: TrainConfig) -> Stage:
    loaded: Nets = {"vae": convert.load_vae(config.init)} if config.init else {}
    sized = replace(config, vae=loaded["vae"].cfg) if loaded else config
    clips = _clips(sized, config.data.seed)
    index, count = own_part(make_mesh(config.seq))
    own = config.batch // count
    if own % clips.per_story:
        raise UsageError(
            f"data.clips_per_story {clips.per_story} does not divide a process's batch of {own}"
        )
    film_stores.check_batch_room(config.batch, own * clips.frames * clips.height * clips.width * 3)
    parts = {"process_index": index, "process_count": count}
    held_out = ()
    if config.held_out.every:
        unseen = replace(sized, data=replace(config.data, clips_per_story=1))
        batches = clip_batches(
            _clips(unseen, config.data.seed + film_data.HELD_OUT_OFFSET), own, **parts
        )
        held_out = tuple(itertools.islice(batches, config.held_out.films // config.batch))

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        vae = jax.device_put(jax.tree.map(gather_to_host, trained["vae"]), jax.local_devices()[0])
        fixed = TRAIN[config.autoencoder.train] if loaded else ()
        for part in fixed:  # averaging rounded its weights
            setattr(vae, part, getattr(loaded["vae"], part))
        # A fixed encoder keeps its statistics: new ones would invalidate stored latents.
        if "encoder" not in fixed:
            vae = _with_statistics(vae, sized)
        dtype = jnp.dtype(config.checkpoint.export_dtype)
        rounded = lambda leaf: leaf.astype(dtype).astype(leaf.dtype)
        # What was trained may be rounded: no latents were made with it yet.
        vae = in_parts(vae, lambda part: part not in fixed, rounded)
        convert.save_model(folder, vae=vae, dtype=dtype, metadata=facts)

    return stage_spec(sized, ()).stage(
        loaded,
        batches=clip_batches(clips, own, **parts, workers=config.data.workers),
        export=export,
        held_out=held_out,
    )


def _clips(config: TrainConfig, seed: int) -> Clips:
    """The clips that config.data and config.autoencoder ask for, for the VAE config.vae.

    `UsageError` where a clip does not fit into a film, or is not whole latents.
    """
    world, stride, frames = config.world, config.vae.spatial_stride, _clip_frames(config)
    height, width = config.clip_size
    if frames > world.frames:
        raise UsageError(
            f"data.clip_frames {config.data.clip_frames} is more than a film of "
            f"{world.latent_frames} latent frames"
        )
    if height > world.height or width > world.width or height % stride or width % stride:
        raise UsageError(
            f"autoencoder.crop ({height}, {width}) must be multiples of {stride}, the VAE's "
            f"spatial stride, within a film's ({world.height}, {world.width})"
        )
    return Clips(
        world,
        seed,
        frames,
        cuts=config.autoencoder.cuts,
        height=height,
        width=width,
        per_story=config.data.clips_per_story,
    )


def _clip_frames(config: TrainConfig) -> int:
    """Video frames of a clip."""
    return config.vae.temporal_stride * (config.data.clip_frames - 1) + 1


def _with_statistics(vae: VAE, config: TrainConfig) -> VAE:
    """The same weights with the mean and std of their latents.

    They are measured over whole frames of clips that were not trained on.
    """
    world = config.world
    unseen = clip_batches(Clips(world, config.data.seed + 1, _clip_frames(config)), config.batch)
    painted: Iterator = (
        jax.jit(paint, static_argnums=(1, 2))(next(unseen), world.height, world.width)
        for _ in range(STATISTICS_BATCHES)
    )
    sizes = latent_statistics(vae, painted)
    like = jax.eval_shape(lambda: VAE(sizes, key=jax.random.key(0)))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(vae))
