"""A four-step student, second stage: distribution matching (paper 3.4).

The student trains on its own rollouts, with a GAN head on the fake score.

    # Films of 80x48, two CPU cores, after configs/ode_init.py:
    python launch/train.py --config configs/dmd.py
    # 160x96, one H200, after configs/ode_init.py:storyworld:
    python launch/train.py --config configs/dmd.py:storyworld
    # After configs/ode_init.py:wan_1_3b; also :wan_14b:
    python launch/train.py --config configs/dmd.py:wan_1_3b

    python launch/generate.py --model outputs/dmd/model --story examples/demo.yaml \\
        --out outputs/film

`steps` counts updates of the critic (fake score and head); every fifth also updates the student.
--config.gan.generator_weight=0 trains without the head.

Base size: not run to its end. The embedded student was made by configs/embedded.py:student, on
films of both worlds. A step of 2 films took 7 to 10 seconds on two busy CPU cores. Storyworld size:
planned for 9 minutes on the H200, by counting forward passes; it has never run.

For Wan2.1 the numbers are those of Self-Forcing (1.3B) and Self-Forcing-Plus (14B): AdamW without
momentum at 2e-6, the critic at 4e-7, batch 64, gradients clipped at 10, the average from step 200
on. Gradients flow through 21 latent frames of a film, a window drawn at random
(self_forcing.grad_frames), and the head reads the same window. Student, fake score and teacher are
22 bytes per parameter of the model (14B: 315 GB) before activations, sharded over all devices.

14B on 64 devices, by launch/plan.py compile with --config.seq=8 --config.optim.accumulation=8
--config.critic_optim.accumulation=8: 58 GB on each H200, 70 on each v5p. Of these, 29 are the
student's weights, gathered for its rollout. --config.rollout_weights=sharded avoids them, and
sends ten times as much.
"""

from dataclasses import replace

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import Preset, preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    DMDConfig,
    GANConfig,
    OptimConfig,
    SampleConfig,
    SelfForcingConfig,
    TimeConfig,
    TrainConfig,
)

EMBEDDED = "causalcine_jax/weights/storyworld"


def get_config(size: str = "base") -> TrainConfig:
    sizes = {"base": base, "storyworld": storyworld, "wan_1_3b": wan_1_3b, "wan_14b": wan_14b}
    if size not in sizes:
        raise UsageError(f"configs/dmd.py has no size {size!r}, {nearest(size, sizes)}")
    return sizes[size]()


def base() -> TrainConfig:
    return _run(
        preset("storyworld-base"),
        out="outputs/dmd",
        init="outputs/ode_init/model",
        teacher=EMBEDDED,
        steps=600,
        generator_start=100,
        batch=4,
        remat=True,
        time=TimeConfig(weight="sigma"),  # the teacher predicts clean latents
        self_forcing=SelfForcingConfig(shift=4.0, grad_frames=0),
        dmd=DMDConfig(shift=4.0, real_guidance=2.0),
        optim=OptimConfig(lr=2e-4, schedule="cosine", warmup=0, b1=0.0, b2=0.999, ema_decay=0.95),
        critic_optim=OptimConfig(lr=2e-4, schedule="cosine", warmup=0, b1=0.0, b2=0.999),
        data=DataConfig(world="base", films=400, store="outputs/ode_init/latents"),
        checkpoint=CheckpointConfig(every=100, keep=2),
    )


def storyworld() -> TrainConfig:
    return _run(
        preset("storyworld"),
        generator_start=100,
        out="outputs/storyworld/dmd",
        init="outputs/storyworld/ode_init/model",
        teacher="outputs/storyworld/model",
        steps=1000,
        batch=32,
        dtype="bfloat16",
        self_forcing=SelfForcingConfig(shift=3.0, grad_frames=0),
        dmd=DMDConfig(shift=3.0, real_guidance=3.0),
        optim=OptimConfig(lr=1e-4, schedule="cosine", warmup=0, b1=0.0, b2=0.999, ema_decay=0.95),
        critic_optim=OptimConfig(lr=1e-4, schedule="cosine", warmup=0, b1=0.0, b2=0.999),
        data=DataConfig(
            world="storyworld",
            store="outputs/storyworld/latents",
            vae="outputs/storyworld/autoencoder/model",
            threads=8,
        ),
        checkpoint=CheckpointConfig(every=200, keep=1),
    )


def wan_1_3b() -> TrainConfig:
    return _wan("1.3b", steps=600, real_guidance=4.0)


def wan_14b() -> TrainConfig:
    return _wan("14b", steps=3000, real_guidance=6.0)


def _wan(name: str, steps: int, real_guidance: float) -> TrainConfig:
    critic = OptimConfig(
        lr=4e-7, schedule="constant", warmup=0, b1=0.0, b2=0.999, weight_decay=0.01, clip=10.0
    )
    return _run(
        preset(f"wan-{name}"),
        out=f"outputs/wan-{name}-dmd",
        init=f"outputs/wan-{name}-ode_init/model",
        teacher=f"outputs/wan-{name}/model",
        steps=steps,
        generator_start=100,
        batch=64,
        dtype="bfloat16",
        remat=True,
        self_forcing=SelfForcingConfig(shift=5.0),
        dmd=DMDConfig(shift=5.0, real_guidance=real_guidance),
        optim=replace(critic, lr=2e-6, ema_decay=0.99, ema_start=200),
        critic_optim=critic,
        data=DataConfig(world="storyworld", threads=8),
        checkpoint=CheckpointConfig(every=100, keep=2),
        sample=SampleConfig(at_end=False),
    )


def _run(sizes: Preset, **what) -> TrainConfig:
    return TrainConfig(
        stage="dmd",
        generator_every=5,
        # Uniform times below 700: with more noise a head cannot tell films apart.
        gan=GANConfig(shift=1.0, t_max=700.0),
        train_text_encoder=False,
        transformer=sizes.transformer,
        text_encoder=sizes.text_encoder,
        vae=sizes.vae,
        **what,
    )
