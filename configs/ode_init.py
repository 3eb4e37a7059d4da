"""A four-step student, first stage: regression to the end of its teacher's ODE (paper 3.4).

    # Films of 80x48, two CPU cores; the embedded weights are the teacher:
    python launch/train.py --config configs/ode_init.py
    # 160x96, one H200, after configs/storyworld.py:
    python launch/train.py --config configs/ode_init.py:storyworld
    # After configs/wan.py:1.3b; also :wan_14b:
    python launch/train.py --config configs/ode_init.py:wan_1_3b
    # Then the second stage:
    python launch/train.py --config configs/dmd.py

Another teacher: --config.teacher=outputs/base/model. The resulting model already generates films
in four steps.

On CPUs a trajectory costs as much as training the student on it several times. Trajectories are
therefore written to the folder ode.store first, and read many times. Other settings need another
--config.ode.store. On fast machines, every step computes its own trajectories.

Base size: not run to its end. The embedded student was made by configs/embedded.py:student_ode: 7
seconds a trajectory of 20 steps and 20 a step of 4 films, on two busy CPU cores. Storyworld size:
planned for 9 minutes on the H200, by counting forward passes; it has never run.

For Wan2.1 the numbers are those of Causal Forcing: guidance 6, shift 5, AdamW at 2e-6, 1000 steps
and more. A trajectory of 60 latent frames is then 1920 passes of a chunk. The run therefore stores
them first, one film per group of `seq` devices at a time: 6000 trajectories, 72 MB each at 832x480.
With guidance a film has two histories, at 14B of 77 GB each. --config.seq=8
--config.optim.accumulation=8 shares them, and the film of a step, among 8 devices.
"""

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import Preset, preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    ODEConfig,
    OptimConfig,
    SampleConfig,
    SelfForcingConfig,
    TrainConfig,
)

EMBEDDED = "causalcine_jax/weights/storyworld"


def get_config(size: str = "base") -> TrainConfig:
    sizes = {"base": base, "storyworld": storyworld, "wan_1_3b": wan_1_3b, "wan_14b": wan_14b}
    if size not in sizes:
        raise UsageError(f"configs/ode_init.py has no size {size!r}, {nearest(size, sizes)}")
    return sizes[size]()


def base() -> TrainConfig:
    return _run(
        preset("storyworld-base"),
        out="outputs/ode_init",
        teacher=EMBEDDED,
        steps=300,
        batch=4,
        self_forcing=SelfForcingConfig(shift=4.0),
        ode=ODEConfig(guidance=2.0, store="{out}/trajectories", films=320),
        optim=OptimConfig(optimizer="muon", lr=5e-4, warmup=20, ema_decay=0.98),
        data=DataConfig(world="base", films=400),
        checkpoint=CheckpointConfig(every=50, keep=2),
    )


def storyworld() -> TrainConfig:
    return _run(
        preset("storyworld"),
        out="outputs/storyworld/ode_init",
        teacher="outputs/storyworld/model",
        steps=350,
        batch=32,
        dtype="bfloat16",
        self_forcing=SelfForcingConfig(shift=3.0),
        ode=ODEConfig(guidance=3.0),
        optim=OptimConfig(optimizer="muon", lr=5e-4, warmup=20, ema_decay=0.98),
        data=DataConfig(
            world="storyworld",
            store="outputs/storyworld/latents",
            vae="outputs/storyworld/autoencoder/model",
            threads=8,
        ),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )


def wan_1_3b() -> TrainConfig:
    return _wan("1.3b", steps=2000)


def wan_14b() -> TrainConfig:
    return _wan("14b", steps=2000)


def _wan(name: str, steps: int) -> TrainConfig:
    return _run(
        preset(f"wan-{name}"),
        out=f"outputs/wan-{name}-ode_init",
        teacher=f"outputs/wan-{name}/model",
        steps=steps,
        batch=64,
        dtype="bfloat16",
        # A pass has 99 chunks. Keeping a film before every layer is 40 x 9.5 GB at 14B, so only
        # every fifth layer keeps it, and few fields are computed at once.
        remat_layers=5,
        segments_at_once=9,
        self_forcing=SelfForcingConfig(shift=5.0),
        ode=ODEConfig(guidance=6.0, store="{out}/trajectories", films=6000),
        optim=OptimConfig(
            lr=2e-6, schedule="constant", warmup=0, b1=0.9, b2=0.999, clip=10.0, ema_decay=0.99
        ),
        data=DataConfig(world="storyworld", films=6000, threads=8),
        checkpoint=CheckpointConfig(every=200, keep=2),
        sample=SampleConfig(at_end=False),
    )


def _run(sizes: Preset, **what) -> TrainConfig:
    return TrainConfig(
        stage="ode_init",
        remat=True,  # the student learns from four times of a trajectory in one pass
        train_text_encoder=False,
        transformer=sizes.transformer,
        text_encoder=sizes.text_encoder,
        vae=sizes.vae,
        **what,
    )
