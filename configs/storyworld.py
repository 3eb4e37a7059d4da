"""The full recipe: StoryWorld at 160x96, films of 60 latent frames (20 chunks, 14.8 s), one H200.

It takes four commands:

    # 1. The VAE, on clips painted while it trains. The end measures its latents' mean and std.
    python launch/train.py --config configs/storyworld.py:autoencoder

    # 2. 20,000 films to latents (about 9 GB).
    python launch/encode.py --model outputs/storyworld/autoencoder/model --world storyworld \\
        --films 20000 --out outputs/storyworld/latents

    # 3. The causal transformer and its text encoder. The same command resumes any stopped run.
    python launch/train.py --config configs/storyworld.py

    # 4. Recall, cuts and prompts on 200 held-out stories.
    python launch/evaluate.py --model outputs/storyworld/model --world storyworld --returns 200 \\
        --out outputs/storyworld/evaluation

No time was measured. Stage 3 was compiled for an H200 (the plan is not kept as a file). With remat
a step of 32 films moves 306 GB, so 0.12 to 0.16 s are expected, and its 8,000 steps take about 19
minutes. Adjust the steps to the measured `step_s`. If a machine cannot be kept, only model folders
need to move: `--config.init=DIR` starts stage 3 from one, and `--config.data.vae=DIR` names the
VAE. Without remat a step moves 440 GB and holds 58 GB. With less memory than remat needs:
--config.optim.accumulation=4.
"""

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
    TrainConfig,
)

OUT = "outputs/storyworld"
WORLD = preset("storyworld")


def get_config(stage: str = "teacher_forcing") -> TrainConfig:
    stages = {"autoencoder": autoencoder, "teacher_forcing": teacher_forcing}
    if stage not in stages:
        raise UsageError(f"configs/storyworld.py has no stage {stage!r}, {nearest(stage, stages)}")
    return stages[stage]()


def autoencoder() -> TrainConfig:
    return TrainConfig(
        stage="autoencoder",
        out=f"{OUT}/autoencoder",
        steps=6000,
        batch=32,
        dtype="bfloat16",
        log_every=50,
        vae=WORLD.vae,
        optim=OptimConfig(optimizer="muon", lr=1e-3, warmup=200, ema_decay=0.999),
        data=DataConfig(world="storyworld", clip_frames=3, workers=8),
        checkpoint=CheckpointConfig(every=1000, keep=1),
    )


def teacher_forcing() -> TrainConfig:
    return TrainConfig(
        stage="teacher_forcing",
        out=OUT,
        steps=8000,
        batch=32,
        dtype="bfloat16",
        remat=True,  # less memory traffic, not only less memory
        log_every=50,
        transformer=WORLD.transformer,
        text_encoder=WORLD.text_encoder,
        time=TimeConfig(shift=3.0),
        optim=OptimConfig(optimizer="muon", lr=2e-3, warmup=200, ema_decay=0.999),
        data=DataConfig(
            world="storyworld",
            store=f"{OUT}/latents",
            vae=f"{OUT}/autoencoder/model",
            films=20_000,
            threads=8,
        ),
        checkpoint=CheckpointConfig(every=1000, keep=1, export_every=2000),
        sample=SampleConfig(every=2000),
    )
