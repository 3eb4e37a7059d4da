"""How the embedded transformer was made: runs on two CPU cores, each from the previous one's model.

    # Films of the base world teach what things look like and what words mean.
    python launch/train.py --config configs/embedded.py:first
    # Films that cut at almost every chunk teach it to use memory.
    python launch/train.py --config configs/embedded.py:montage
    # Both worlds, with the learning rate falling to 0; then the same once more.
    python launch/train.py --config configs/embedded.py:mixed
    python launch/train.py --config configs/embedded.py:last

The next weights, in training (docs/lab.md): the same transformer on latents of the VAE of
embedded_vae.py. milestones/films has the newest: encode with --model milestones/films, then go on
with --config.init=milestones/films --config.new_latents=False --config.data.vae=milestones/films.

    causalcine encode --model outputs/embedded/whole_frames/model --processes 2 \\
        --world base --films 800 --out outputs/embedded/latents/base
    causalcine encode --model outputs/embedded/whole_frames/model --processes 2 \\
        --world montage --seed 1 --films 1600 --out outputs/embedded/latents/montage
    causalcine encode --model outputs/embedded/whole_frames/model --processes 2 \\
        --world montage --seed 1000001 --films 64 --out outputs/embedded/latents/held_out
    # At a constant rate; on single chunks without history; with the rate falling to 0.
    python launch/train.py --config configs/embedded.py:films
    python launch/train.py --config configs/embedded.py:beginnings
    python launch/train.py --config configs/embedded.py:films_last
    # Its four-step student.
    python launch/train.py --config configs/embedded.py:student_ode
    python launch/train.py --config configs/embedded.py:student

Why a montage: in a base film most chunks continue the one before, so the window explains them.
The gradient that teaches a character's colour from memory is then a small part of the whole.
Cuts at almost every chunk, to characters seen before, make it most of the gradient.
Two more settings help for the same reason: high noise (shift 6), at which colours are decided,
and a time per chunk, so that every film has all noise levels.
"""

import dataclasses

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
VAE = "causalcine_jax/weights/storyworld"
EMBEDDED = preset("storyworld-base")
OPTIM = OptimConfig(optimizer="muon", lr=1.5e-3, warmup=60, ema_decay=0.998)
BOTH = DataConfig(world="base", store=f"{OUT}/first/latents,{OUT}/montage/latents", vae=VAE)


def get_config(stage: str = "first") -> TrainConfig:
    stages = {
        "first": first,
        "montage": montage,
        "mixed": mixed,
        "last": last,
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


LATENTS = f"{OUT}/latents"
# A token for each of 6x10 latents: patches of 2 by 2 learned places well, but characters came out
# as mosaics of patches. Clean latents and an input skip learn faster, too (docs/lab.md).
TRANSFORMER = dataclasses.replace(
    EMBEDDED.transformer,
    in_dim=48,
    out_dim=48,
    patch_size=(1, 1, 1),
    predicts="clean",
    skip_dim=320,
)


def films() -> TrainConfig:
    config = _films("films", "last", 20_000, schedule="constant", lr=2e-3, warmup=100)
    return dataclasses.replace(config, new_latents=True)


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
                store=f"{LATENTS}/base,{LATENTS}/montage",
                vae=f"{OUT}/whole_frames/model",
                retell=True,
                return_weight=2.5,
            ),
        ),
        batch=2,
        transformer=TRANSFORMER,
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
        transformer=TRANSFORMER,
        text_encoder=EMBEDDED.text_encoder,
        self_forcing=SelfForcingConfig(shift=4.0, grad_frames=0),
        data=DataConfig(store=f"{LATENTS}/base,{LATENTS}/montage"),
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
