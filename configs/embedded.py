"""How the embedded models were made: runs on two CPU cores, each from the previous one's model.

    # Latents, by the VAE of embedded_vae.py or of the weights in the package.
    causalcine encode --model causalcine_jax/weights/storyworld --processes 2 \\
        --world base --seed 1 --films 800 --out outputs/embedded/latents/base
    causalcine encode --model causalcine_jax/weights/storyworld --processes 2 \\
        --world montage --seed 1 --films 1600 --out outputs/embedded/latents/montage
    causalcine encode --model causalcine_jax/weights/storyworld --processes 2 \\
        --world montage --seed 1000001 --films 64 --out outputs/embedded/latents/held_out
    # From nothing, on base films; then with memory, at a constant rate.
    python launch/train.py --config configs/embedded.py:first
    python launch/train.py --config configs/embedded.py:films
    # On single chunks without history; on films again, with the rate falling to 0.
    python launch/train.py --config configs/embedded.py:beginnings
    python launch/train.py --config configs/embedded.py:films_last
    # Its four-step student.
    python launch/train.py --config configs/embedded.py:student_ode
    python launch/train.py --config configs/embedded.py:student

The weights in the package did not begin with `first`: they began with a transformer of other
latents. `beginnings` and `films_last` were each run several times (docs/lab.md). To go on from the
weights in the package: --config.init=causalcine_jax/weights/storyworld
--config.memory.policy=attended.

Why a montage: in a base film most chunks continue the one before, so the window explains them.
The gradient that teaches a character's colour from memory is then a small part of the whole.
Cuts at almost every chunk, to characters seen before, make it most of the gradient.
Two more settings help for the same reason: high noise (shift 5), at which colours are decided,
and a time per chunk, so that every film has all noise levels. Why single chunks: in whole films
most chunks can copy their character from history, and few teach to draw it from a caption.
"""

import dataclasses

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    DMDConfig,
    GANConfig,
    HeldOutConfig,
    ODEConfig,
    OptimConfig,
    SampleConfig,
    SelfForcingConfig,
    TimeConfig,
    TrainConfig,
)

OUT = "outputs/embedded"
LATENTS = f"{OUT}/latents"
STORES = f"{LATENTS}/base,{LATENTS}/montage"
VAE = "causalcine_jax/weights/storyworld"
EMBEDDED = preset("storyworld-base")
OPTIM = OptimConfig(optimizer="muon", lr=1.5e-3, warmup=60, ema_decay=0.998)


def get_config(stage: str = "first") -> TrainConfig:
    stages = {
        "first": first,
        "films": films,
        "beginnings": beginnings,
        "films_last": films_last,
        "student_ode": student_ode,
        "student": student,
    }
    if stage not in stages:
        raise UsageError(f"configs/embedded.py has no stage {stage!r}, {nearest(stage, stages)}")
    return stages[stage]()


def first() -> TrainConfig:
    return _run(
        "first",
        "",
        steps=2500,
        time=TimeConfig(shift=3.0, weight="sigma"),
        optim=dataclasses.replace(OPTIM, lr=2e-3),
        data=DataConfig(world="base", store=f"{LATENTS}/base", vae=VAE),
    )


def films() -> TrainConfig:
    return _films("films", "first", 20_000, schedule="constant", lr=2e-3, warmup=100)


def beginnings() -> TrainConfig:
    """Single chunks at shots' starts: what a prompt looks like where there is nothing to copy."""
    config = _films("beginnings", "films", 2_000, schedule="cosine", lr=2e-3)
    return dataclasses.replace(
        config,
        batch=40,
        time=dataclasses.replace(config.time, shift=3.0),
        data=dataclasses.replace(config.data, chunks=1, return_weight=1.0),
        held_out=dataclasses.replace(config.held_out, films=40),
    )


def films_last() -> TrainConfig:
    return _films("films_last", "beginnings", 4_000, schedule="cosine", lr=1.5e-3)


def _films(name: str, before: str, steps: int, **optim) -> TrainConfig:
    """Base films teach what things look like and what words mean, montages to use memory."""
    return dataclasses.replace(
        _run(
            name,
            before,
            steps=steps,
            time=TimeConfig(shift=5.0, shared_by="chunk", weight="sigma", draws=2),
            optim=dataclasses.replace(OPTIM, **optim),
            data=DataConfig(
                store=STORES,
                vae=VAE,
                retell=True,
                return_weight=2.5,
            ),
        ),
        batch=2,
        held_out=HeldOutConfig(every=500, films=32, store=f"{LATENTS}/held_out"),
        checkpoint=CheckpointConfig(every=250, keep=2, export_every=1000),
    )


def student_ode() -> TrainConfig:
    return _student(
        "student_ode",
        stage="ode_init",
        steps=300,
        ode=ODEConfig(guidance=2.0, store="{out}/trajectories", films=320),
        optim=OptimConfig(optimizer="muon", lr=5e-4, warmup=20, ema_decay=0.98),
    )


def student() -> TrainConfig:
    """Matches the teacher on the student's own films.

    Fake score and head learn alone first. The head sees films at all times alike; at those of the
    scores it would mostly see noise.
    """
    optim = OptimConfig(lr=2e-4, schedule="cosine", warmup=0, b1=0.0, b2=0.999, ema_decay=0.95)
    return _student(
        "student",
        init=f"{OUT}/student_ode/model",
        stage="dmd",
        steps=900,
        generator_start=100,
        dmd=DMDConfig(shift=4.0, real_guidance=2.0),
        gan=GANConfig(shift=1.0, t_max=700.0),
        time=TimeConfig(weight="sigma"),
        optim=optim,
        critic_optim=dataclasses.replace(optim, ema_decay=0.0),
    )


def _student(name: str, **what) -> TrainConfig:
    return TrainConfig(
        out=f"{OUT}/{name}",
        teacher=f"{OUT}/films_last/model",
        batch=4,
        remat=True,
        train_text_encoder=False,
        transformer=EMBEDDED.transformer,
        text_encoder=EMBEDDED.text_encoder,
        memory=MemoryConfig("attended"),
        self_forcing=SelfForcingConfig(shift=4.0, grad_frames=0),
        data=DataConfig(store=STORES, vae=VAE),
        checkpoint=CheckpointConfig(every=50, keep=2),
        **what,
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
