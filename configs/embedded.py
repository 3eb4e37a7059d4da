"""How the embedded weights were made: runs on two CPU cores, each from the previous one's model.

    # The VAE: on crops of single frames, then of clips with cuts, then on whole frames with the
    # learning rate falling to 0.
    python launch/train.py --config configs/embedded.py:pictures
    python launch/train.py --config configs/embedded.py:autoencoder
    python launch/train.py --config configs/embedded.py:whole_frames

    # The transformer: films of the base world teach what things look like and what words mean.
    python launch/train.py --config configs/embedded.py:first
    # Films that cut at almost every chunk teach it to use memory.
    python launch/train.py --config configs/embedded.py:montage
    # Both worlds, with the learning rate falling to 0; then the same once more.
    python launch/train.py --config configs/embedded.py:mixed
    python launch/train.py --config configs/embedded.py:last

Why a montage: in a base film most chunks continue the one before, so the window explains them.
The gradient that teaches a character's colour from memory is then a small part of the whole.
Cuts at almost every chunk, to characters seen before, make it most of the gradient.
Two more settings help for the same reason: high noise (shift 6), at which colours are decided,
and a time per chunk, so that every film has all noise levels.
"""

import dataclasses

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
    TrainConfig,
)
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig

OUT = "outputs/embedded"
VAE = "causalcine_jax/weights/storyworld"
EMBEDDED = preset("storyworld-base")
OPTIM = OptimConfig(optimizer="muon", lr=1.5e-3, warmup=60, ema_decay=0.998)
BOTH = DataConfig(world="base", store=f"{OUT}/first/latents,{OUT}/montage/latents", vae=VAE)


def get_config(stage: str = "first") -> TrainConfig:
    stages = {
        "pictures": pictures,
        "autoencoder": autoencoder,
        "whole_frames": whole_frames,
        "first": first,
        "montage": montage,
        "mixed": mixed,
        "last": last,
    }
    if stage not in stages:
        raise UsageError(f"configs/embedded.py has no stage {stage!r}, {nearest(stage, stages)}")
    return stages[stage]()


# Blocks of 2x2 pixels become channels, as in Wan2.2. CPUs are slowest at layers of full size with
# few channels, and this avoids them.
VAE_SIZES = VAEConfig(
    dim=16,
    dim_mult=(1, 3, 6),
    num_res_blocks=1,
    temperal_downsample=(True, True),
    patch_size=2,
    z_dim=48,  # 16 cannot hold what a frame shows (docs/lab.md)
    mean=(0.0,) * 48,
    std=(1.0,) * 48,
)


OPTIM_VAE = OptimConfig(
    optimizer="muon", lr=4e-3, warmup=100, schedule="constant", weight_decay=0.0, ema_decay=0.998
)
# A crop is a quarter of a frame, so the same work covers four times as many clips.
CROP = AutoencoderConfig(kl=3e-4, edge=0.5, cuts=1 / 3, crop=(24, 40))


def pictures() -> TrainConfig:
    """Returns the VAE's first run, on single frames.

    Most of what a VAE has to learn is in them, and 32 frames cost less than four clips.
    """
    return _autoencoder(
        "pictures",
        6_000,
        CROP,
        batch=32,
        data=DataConfig(world="base", clip_frames=1, clips_per_story=8),
    )


def autoencoder() -> TrainConfig:
    return _autoencoder(
        "autoencoder",
        20_000,
        CROP,
        init="pictures",
        batch=4,
        data=DataConfig(world="base", clip_frames=4),
    )


def whole_frames() -> TrainConfig:
    loss = dataclasses.replace(CROP, crop=(0, 0))
    optim = dataclasses.replace(OPTIM_VAE, schedule="cosine", lr=2e-3)
    return _autoencoder(
        "whole_frames",
        3_000,
        loss,
        init="autoencoder",
        batch=4,
        optim=optim,
        data=DataConfig(world="base", clip_frames=5),
    )


def _autoencoder(
    name: str,
    steps: int,
    loss: AutoencoderConfig,
    *,
    init: str = "",
    optim: OptimConfig = OPTIM_VAE,
    **what,
) -> TrainConfig:
    return TrainConfig(
        stage="autoencoder",
        out=f"{OUT}/{name}",
        init=f"{OUT}/{init}/model" if init else "",
        steps=steps,
        log_every=100,
        vae=VAE_SIZES,
        autoencoder=loss,
        optim=optim,
        checkpoint=CheckpointConfig(every=500, keep=2, export_every=1000, export_dtype="float32"),
        **what,
    )


def first() -> TrainConfig:
    optim = dataclasses.replace(OPTIM, lr=2e-3)
    return _run(
        "first",
        "",
        steps=2500,
        time=TimeConfig(shift=3.0),
        optim=optim,
        data=DataConfig(world="base", films=1024, vae=VAE),
    )


def montage() -> TrainConfig:
    time, optim = (
        TimeConfig(shift=6.0, shared_by="chunk"),
        dataclasses.replace(OPTIM, schedule="constant"),
    )
    return _run(
        "montage",
        "first",
        steps=8500,
        time=time,
        optim=optim,
        data=DataConfig(world="montage", films=1536, vae=VAE),
    )


def mixed() -> TrainConfig:
    return _run(
        "mixed",
        "montage",
        steps=2300,
        time=TimeConfig(shift=4.0, shared_by="chunk"),
        optim=OPTIM,
        data=BOTH,
    )


def last() -> TrainConfig:
    return _run(
        "last",
        "mixed",
        steps=1600,
        time=TimeConfig(shift=5.0, shared_by="chunk"),
        optim=OPTIM,
        data=BOTH,
    )


def _run(name: str, before: str, **what) -> TrainConfig:
    return TrainConfig(
        stage="teacher_forcing",
        out=f"{OUT}/{name}",
        init=f"{OUT}/{before}/model" if before else "",
        batch=4,
        remat=True,  # on a CPU, recomputing is cheaper than storing and loading
        log_every=25,
        transformer=EMBEDDED.transformer,
        text_encoder=EMBEDDED.text_encoder,
        checkpoint=CheckpointConfig(every=500, keep=2),
        sample=SampleConfig(steps=20, guidance=2.0),
        **what,
    )
