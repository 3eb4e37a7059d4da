"""The stages that make a few-step student, from a config to what the loop trains (paper 3.4).

    trained base model = teacher --ode_init: on its trajectories--> student
    student --dmd: on its own rollouts, with both scores and the GAN's head--> student

The text encoder is the teacher's and is not trained. The student's average is exported, with the
sampler that it was trained for; its metadata.json names the teacher as its base.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
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
from causalcine_jax.data.loader import Visit
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.prompt_embeddings import KnownPrompts
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.parallel.processes import text_of_first
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.film_data import film_loader, films_note, rollout_facts, visits_of
from causalcine_jax.training.film_stores import check_store, film_vae, open_store
from causalcine_jax.training.known_prompts import null_prompt, sizes_of
from causalcine_jax.training.recorded import check_recorded
from causalcine_jax.training.sample import embed_ahead, sampling
from causalcine_jax.training.smaller_step import smaller_trajectories
from causalcine_jax.training.stages.adapters import adapter_bases, bases, export_adapters
from causalcine_jax.training.stages.spec import ode_init_task, stage_spec
from causalcine_jax.training.stages.trajectory_store import TrajectorySettings, write_trajectories
from causalcine_jax.training.state import Nets, Stage
from causalcine_jax.training.step_memory import SMALLER_FILMS, check_fits

MAKES = {"teacher": "base", "init": "ode_init"}  # the config whose run leaves such a model


@dataclass(frozen=True)
class _Loaded:
    """What a student's stage needs.

    config       with the sizes of the teacher
    nets         student, fake_score (a copy of the teacher to train), teacher, and text_encoder
                 unless prompts are embedded before
    vae          that made the films; None if this installation has none
    visits       what changes a record of the store, or of trajectories over it
    null_prompt  token ids of what the teacher's guidance steers away from
    notes        for the log
    """

    config: TrainConfig
    nets: Nets
    tokenizer: Tokenizer
    vae: VAE | None
    store: LatentStore | MixedStore
    visits: list[Visit]
    null_prompt: tuple[int, ...]
    notes: tuple[str, ...]


def student_stage(config: TrainConfig) -> Stage:
    """The stage with teacher and student loaded, on films or on the teacher's trajectories.

    `UsageError`, `DataError` where models, films and config do not fit.
    """
    spec = stage_spec(config, ())  # before loading: parts of the config may not fit together
    loaded = _load(config)
    return _stage(loaded, _trajectories(loaded) if spec.films_per_record > 1 else loaded.store)


def _trajectories(loaded: _Loaded) -> LatentStore:
    """The store of the teacher's trajectories; missing ones are computed first."""
    config = loaded.config
    # Only where they are not the default, so that stores from before they were recorded stay valid.
    rounding = {
        name: value
        for name in ("matmul_precision", "dtype")
        if (value := getattr(config, name)) != getattr(TrainConfig, name)
    }
    for visit in loaded.visits:
        if isinstance(visit, KnownPrompts) and (rounded := visit.dtypes - {config.dtype}):
            rounding["embeddings"] = ",".join(sorted(rounded))
    teacher_hash = text_of_first(lambda: weights_hash(config.teacher))
    settings = TrajectorySettings(
        count=config.ode.films,
        seed=config.seed,
        source={"teacher_sha256": teacher_hash, **rounding},
        seq=config.seq,
        batch=config.ode.batch,
        visits=tuple(loaded.visits),
        max_bad_fraction=config.data.max_bad_fraction,
    )
    lower = [*smaller_trajectories(config, jax.device_count()), SMALLER_FILMS]
    say = lambda note: print(note, flush=True)
    return write_trajectories(
        Path(config.ode.store),
        loaded.store,
        ode_init_task(config, loaded.null_prompt),
        (loaded.nets["teacher"], loaded.nets.get("text_encoder")),
        settings,
        lambda program: check_fits(program, "a batch of trajectories", "weights", lower, say),
    )


def _load(config: TrainConfig) -> _Loaded:
    teacher_folder = required_model(config, "teacher")
    student_folder = required_model(config, "init") if config.init else teacher_folder
    tokenizer = load_tokenizer(teacher_folder)
    # Loaded where the run will have them; it makes copies of its own of what it trains.
    mesh, dtype = make_mesh(config.seq), jnp.dtype(config.dtype)
    embed_ahead(config, tokenizer)
    text_encoder = None
    if not config.data.embeddings:
        text_encoder = load_text_encoder(teacher_folder, dtype, mesh=mesh)
    notes = check_recorded(config, text_encoder, mesh)
    teacher = load_transformer(teacher_folder, mesh=mesh)
    student = load_transformer(student_folder, mesh=mesh) if config.init else teacher
    check_same_sizes(teacher, teacher_folder, student, student_folder)
    vae = film_vae(config)
    store = open_store(config, vae, teacher.config)
    check_store(config, store, vae, tokenizer, teacher.config)
    _, text_sizes = sizes_of(teacher_folder)
    return _Loaded(
        config=dataclasses.replace(config, transformer=teacher.config, text_encoder=text_sizes),
        nets={
            "student": student,
            "fake_score": teacher,
            "teacher": cast_weights(teacher, dtype),
            **({"text_encoder": text_encoder} if text_encoder else {}),
        },
        tokenizer=tokenizer,
        vae=vae,
        store=store,
        visits=visits_of(config, store, tokenizer),
        null_prompt=tuple(null_prompt(config, tokenizer, store.spec.text_len).tolist()),
        notes=notes,
    )


def _stage(loaded: _Loaded, store: LatentStore | MixedStore) -> Stage:
    """The stage on the batches of `store`: films, or trajectories over them."""
    config, films = loaded.config, loaded.store
    loader = film_loader(config, store, loaded.visits)
    nets = bases(loaded.nets, config)
    sample, notes = sampling(config, films.spec, loaded.tokenizer) if loaded.vae else (None, ())
    return stage_spec(config, loaded.null_prompt).stage(
        nets,
        batches=loader,
        export=_export(loaded, adapter_bases(nets)),
        sample=sample,
        bad=lambda: len(loader.bad_records),
        of_each_size=loader.of_each_size,
        notes=(films_note(config, films), *loaded.notes, *notes),
    )


def _export(loaded: _Loaded, nets: Nets) -> Callable[[Nets, Path, dict], None]:
    config, teacher = loaded.config, Path(loaded.config.teacher)
    text_encoder, vae = loaded.nets.get("text_encoder", teacher), loaded.vae
    tokenizer = loaded.tokenizer
    defaults = rollout_facts(config, loaded.store, vae, teacher) | {
        "sampler": dataclasses.asdict(config.self_forcing.sampler)
    }

    def export(trained: Nets, folder: Path, facts: dict) -> None:
        whole = export_adapters(trained, nets, folder, config, config.init or config.teacher)
        save_model(
            folder,
            transformer=whole["student"],
            text_encoder=text_encoder,
            vae=vae,
            tokenizer=tokenizer,
            dtype=jnp.dtype(config.checkpoint.export_dtype),
            metadata=defaults | {"base": base_entry(teacher, folder)} | facts,
        )

    return export


def required_model(config: TrainConfig, name: str) -> Path:
    """The folder that the field `name` of the config names.

    `DataError` with the command that makes it if it is not there.
    """
    folder = Path(getattr(config, name))
    if not folder.exists():
        out = f" --config.out={folder.parent}" if folder.name == "model" else ""
        raise DataError(
            f"no model at {folder} ({name}): train the earlier stage first, for example with "
            f"`causalcine train --config configs/{MAKES[name]}.py{out}`"
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
            f"teacher {teacher_folder} and student {student_folder} are not of one shape: "
            f"{', '.join(differing)}"
        )
