"""How the embedded VAE was made: on two CPU cores, each run from the previous model.

    # On crops of single frames, then of clips with cuts, then on whole frames with the learning
    # rate falling to 0.
    python launch/train.py --config configs/embedded_vae.py:pictures
    python launch/train.py --config configs/embedded_vae.py:autoencoder
    python launch/train.py --config configs/embedded_vae.py:whole_frames
    # The decoder alone, with a critic: sharp outlines, also of latents that a transformer made.
    python launch/train.py --config configs/embedded_vae.py:decoder

docs/lab.md has what each of them reached.
"""

import dataclasses

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
)
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig

OUT = "outputs/embedded"


def get_config(stage: str = "pictures") -> TrainConfig:
    stages = {
        "pictures": pictures,
        "autoencoder": autoencoder,
        "whole_frames": whole_frames,
        "decoder": decoder,
    }
    if stage not in stages:
        raise UsageError(
            f"configs/embedded_vae.py has no stage {stage!r}, {nearest(stage, stages)}"
        )
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
        1_700,
        loss,
        init="autoencoder",
        batch=4,
        optim=optim,
        data=DataConfig(world="base", clip_frames=5),
    )


def decoder() -> TrainConfig:
    """The encoder stays as it is, so stored latents and transformers stay valid."""
    loss = dataclasses.replace(CROP, kl=0.0, train="decoder", noise=0.5, adversarial=0.05)
    optim = dataclasses.replace(OPTIM_VAE, schedule="cosine", lr=1e-3)
    return _autoencoder(
        "decoder",
        3_000,
        loss,
        init="whole_frames",
        batch=4,
        optim=optim,
        critic_optim=OptimConfig(lr=4e-4, warmup=0, b1=0.5, b2=0.99, weight_decay=0.0),
        data=DataConfig(world="base", clip_frames=4),
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
