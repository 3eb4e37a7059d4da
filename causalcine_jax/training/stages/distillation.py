"""The stages that make a few-step student, from their config to what the loop runs on (paper 3.4).

    trained base model = teacher --ode_init: its trajectories--> student --dmd: the student's own rollouts, both scores, the GAN's head--> student

The text encoder is the teacher's and stays as it is. What is exported is the student's average, with the sampler that it was trained for;
its metadata.json names the teacher as its base.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

from causalcine_jax.convert import (
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    save_model,
    weights_hash,
)
from causalcine_jax.convert.metadata import base_entry
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.film_data import (
    check_store,
    film_loader,
    film_vae,
    open_store,
    rollout_facts,
)
from causalcine_jax.training.recorded import check_recorded
from causalcine_jax.training.sample import sample_film
from causalcine_jax.training.stages.dmd import DistributionMatching, critic_loss, generator_loss
from causalcine_jax.training.stages.ode import ODEInit, ode_init_loss
from causalcine_jax.training.stages.trajectory_store import write_trajectories
from causalcine_jax.training.state import Nets, Stage, Update

MAKES = {"teacher": "base", "init": "ode_init"}  # the config whose run leaves such a model


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What both stages need. null_prompt: token ids of what the teacher's guidance steers away from."""

    student: Transformer
    teacher: Transformer
    text_encoder: UMT5Encoder
    tokenizer: Tokenizer
    store: LatentStore | MixedStore
    null_prompt: tuple[int, ...]
    export: Callable[[Nets, Path, dict], None]
    sample: Callable[[Path, Path, int], None] | None


def ode_init_stage(config: TrainConfig) -> Stage:
    """The student regresses to where the teacher's ODE ends. `UsageError`, `DataError` where models, films and config do not fit."""
    ode_init_task(
        config, ()
    )  # before anything is loaded: the step list may not be among the teacher's
    parts = _parts(config)
    task = ode_init_task(config, parts.null_prompt)
    store, fixed = (
        parts.store,
        {"teacher": _frozen(parts.teacher, config), "text_encoder": parts.text_encoder},
    )
    if config.ode.store:
        store = write_trajectories(
            Path(config.ode.store), parts.store, task, fixed.pop("teacher"), parts.text_encoder,
            count=config.ode.films, batch=config.batch, seed=config.seed, source={"teacher_sha256": weights_hash(Path(config.teacher))},
            seq=config.seq,
        )  # fmt: skip
    return _stage(
        config,
        parts,
        store,
        trained={"student": parts.student},
        fixed=fixed,
        updates=ode_init_updates(config, task),
    )


def ode_init_task(config: TrainConfig, null_prompt: tuple[int, ...]) -> ODEInit:
    """What the loss needs. `UsageError` if the student's times are not among the teacher's."""
    student = config.self_forcing.sampler
    teacher = config.ode.sampler(student.shift)
    return ODEInit(
        null_prompt, student, teacher, config.memory, config.chunk_frames,
        **config.saving, rollout_weights=config.rollout_weights, times_at_once=config.ode.times_at_once or None,
    )  # fmt: skip


def ode_init_updates(config: TrainConfig, task: ODEInit) -> tuple[Update, ...]:
    task = dataclasses.replace(task, stored=bool(config.ode.store))
    return (Update(ode_init_loss(task), ("student",), config.optim),)


def dmd_stage(config: TrainConfig) -> Stage:
    """Distribution matching on the student's rollouts. Raises as `ode_init_stage` does."""
    dmd_updates(config, ())  # before anything is loaded: its parts may not fit together
    parts = _parts(config)
    trained, sizes = {"student": parts.student, "fake_score": parts.teacher}, parts.teacher.config
    if config.gan.on:
        trained["head"] = lambda key: config.gan.head(sizes.dim, sizes.num_layers, key=key)
    advice = "the fake score diverges: lower critic_optim.lr, or raise generator_every (max_critic_mse is this limit)"
    return _stage(
        config,
        parts,
        parts.store,
        trained=trained,
        fixed={"teacher": _frozen(parts.teacher, config), "text_encoder": parts.text_encoder},
        updates=dmd_updates(config, parts.null_prompt),
        limits={"critic_mse": (config.max_critic_mse, advice)},
    )


def dmd_updates(config: TrainConfig, null_prompt: tuple[int, ...]) -> tuple[Update, ...]:
    """The student's, at every generator_every-th step, and the critic's at each."""
    task = DistributionMatching(
        null_prompt, config.memory, config.self_forcing, config.dmd, config.gan, config.chunk_frames,
        **config.saving, rollout_weights=config.rollout_weights,
    )  # fmt: skip
    critics = ("fake_score", "head") if config.gan.on else ("fake_score",)
    return (
        Update(
            generator_loss(task), ("student",), config.optim, "generator", config.generator_every
        ),
        Update(
            critic_loss(task),
            critics,
            config.critic_optim,
            "critic",
            rates={"head": config.gan.head_rate},
        ),
    )


def _stage(config: TrainConfig, parts: _Parts, store: LatentStore | MixedStore, **what) -> Stage:
    loader = film_loader(config, store, parts.tokenizer)
    return Stage(
        batches=loader,
        export=parts.export,
        exported=("student",),
        sample=parts.sample,
        bad=lambda: len(loader.bad_records),
        notes=(
            f"{parts.store.spec.films} films of {parts.store.spec.latent_frames} latent frames in {parts.store.path}",
        ),
        **what,
    )


def _parts(config: TrainConfig) -> _Parts:
    teacher_folder = model_made(config, "teacher")
    student_folder = model_made(config, "init") if config.init else teacher_folder
    tokenizer = load_tokenizer(teacher_folder)
    # Where the run will have them; it makes copies of its own of what it trains.
    mesh = make_mesh(config.seq)
    # Nothing trains it, so it needs no float32 copy: UMT5-XXL is 11 GB in bfloat16.
    text_encoder = load_text_encoder(teacher_folder, jnp.dtype(config.dtype), mesh=mesh)
    check_recorded(config, text_encoder, mesh)
    teacher = load_transformer(teacher_folder, mesh=mesh)
    student = load_transformer(student_folder, mesh=mesh) if config.init else teacher
    check_same_sizes(teacher, teacher_folder, student, student_folder)
    vae = film_vae(config)
    store = open_store(config, teacher.config.text_len)
    check_store(config, store, vae, tokenizer, teacher.config)
    negative = model_defaults(teacher_folder).get("negative", "")
    defaults = rollout_facts(config, store, vae, teacher_folder) | {
        "sampler": dataclasses.asdict(config.self_forcing.sampler)
    }

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        said = defaults | {"base": base_entry(teacher_folder, folder)} | facts
        save_model(
            folder, transformer=trained["student"], text_encoder=text_encoder, vae=vae, tokenizer=tokenizer,
            dtype=jnp.dtype(config.checkpoint.export_dtype), metadata=said,
        )  # fmt: skip

    return _Parts(
        student=student,
        teacher=teacher,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        store=store,
        null_prompt=tuple(tokenizer([negative], store.spec.text_len)[0][0].tolist()),
        export=export,
        sample=functools.partial(sample_film, world=config.world, seed=config.seed)
        if vae
        else None,
    )


def model_made(config: TrainConfig, name: str) -> Path:
    """The folder that the field `name` of the config names; `DataError` with the command that makes it if it is not there."""
    folder = Path(getattr(config, name))
    if not folder.exists():
        out = f" --config.out={folder.parent}" if folder.name == "model" else ""
        raise DataError(
            f"no model at {folder} ({name}): an earlier stage leaves it, "
            f"`python launch/train.py --config configs/{MAKES[name]}.py{out}` or the like"
        )
    return folder


def check_same_sizes(
    teacher: Transformer, teacher_folder: Path, student: Transformer, student_folder: Path
) -> None:
    """`UsageError` naming every size in which student and teacher differ."""
    sizes = zip(
        *(dataclasses.asdict(net.config).items() for net in (teacher, student)), strict=True
    )
    if differing := [
        f"{name} {theirs} and {ours}" for (name, theirs), (_, ours) in sizes if theirs != ours
    ]:
        raise UsageError(
            f"teacher {teacher_folder} and student {student_folder} are not of one shape: {', '.join(differing)}"
        )


def _frozen(net: Transformer, config: TrainConfig) -> Transformer:
    """A network in the dtype it computes in."""
    return cast_weights(net, jnp.dtype(config.dtype))
