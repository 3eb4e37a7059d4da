"""What a stage of training is, described once: networks as functions of a key, and updates.

    TrainConfig -> stage_spec -> StageSpec -> loaded, with data (build.py): the loop trains it
                                           -> shapes (planning/planned_step.py): a plan of a step
                                           -> random weights (benchmarks): the time of a step

All sizes are those of the config. A run that starts from a model first puts that model's sizes into
its config.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from causalcine_jax.data.clips import paint
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.lora import layers_of, new_adapters
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.critic import PatchCritic
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.adapters import ADAPTED, base_of, with_adapters
from causalcine_jax.training.stages.autoencoder import autoencoder_loss, picture_critic_loss
from causalcine_jax.training.stages.dmd import DistributionMatching, critic_loss, generator_loss
from causalcine_jax.training.stages.ode import ODEInit, ode_init_loss
from causalcine_jax.training.stages.teacher_forcing import TeacherForcing, teacher_forcing_loss
from causalcine_jax.training.state import Limit, Loss, Nets, Stage, StageNets, Update, weighted

Init = Callable[[Array], Any]  # a key to a network with random weights


@dataclass(frozen=True)
class StageSpec:
    """A stage without weights and data.

    trained           name -> function of a key that makes this network, in float32
    fixed             the same for networks that are not trained, each in the dtype it is kept in
    updates           in the order in which they run
    exported          trained networks whose average is kept and exported; all of them if empty
    limits            metrics that stop the run, see `Stage`
    films_per_record  films that one record of the stage's store holds
    histories         temporary KV caches per film in one step
    exits             steps of the rollout's sampler; the rollout may stop at any of them
    """

    trained: dict[str, Init]
    fixed: dict[str, Init]
    updates: tuple[Update, ...]
    exported: tuple[str, ...] = ()
    limits: dict[str, Limit] = field(default_factory=dict)
    films_per_record: int = 1
    histories: int = 0
    exits: int = 1

    def stage(self, loaded: Nets, **run) -> Stage:
        """The stage with the networks of `loaded` in place of their functions.

        `run` holds the other fields of `Stage`: batches, export and so on.
        """
        return Stage(**self._fields(loaded), **run)

    def shapes(self) -> StageNets:
        """The stage with shapes in place of networks."""
        inits = self.trained | self.fixed
        shapes = jax.eval_shape(lambda key: init_networks(inits, key), jax.random.key(0))
        return StageNets(**self._fields(shapes))

    def _fields(self, loaded: Nets) -> dict[str, Any]:
        given = lambda inits: {name: loaded.get(name, init) for name, init in inits.items()}
        return {
            "trained": given(self.trained),
            "fixed": given(self.fixed),
            "updates": self.updates,
            "exported": self.exported,
            "limits": self.limits,
        }

    def batch(
        self,
        config: TrainConfig,
        films: int,
        frames: int,
        latent_size: tuple[int, int],
        shots: int,
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch of films from a latent store."""
        shape, chunks = jax.ShapeDtypeStruct, frames // config.chunk_frames
        latents = (films, self.films_per_record * frames, *latent_size, config.transformer.in_dim)
        text, dtype = (config.transformer.text_len, config.transformer.text_dim), config.dtype
        known = {
            "text": shape((films, shots, *text), dtype),
            "null_text": shape((films, *text), dtype),
        }
        return {
            "latents": shape(latents, jnp.float32),
            "token_ids": shape((films, shots, text[0]), jnp.int32),
            "shot_of_chunk": shape((films, self.films_per_record * chunks), jnp.int32),
            **(known if config.data.embeddings else {}),
        }


def init_networks(inits: dict[str, Init], key: Array) -> Nets:
    """The networks of `inits`, each from a key of its own."""
    keys = jax.random.split(key, max(1, len(inits)))
    return {name: init(part) for (name, init), part in zip(inits.items(), keys, strict=False)}


def stage_spec(config: TrainConfig, null_prompt: tuple[int, ...]) -> StageSpec:
    """The stage that config.stage names.

    Args:
      null_prompt: token ids [T] of the prompt that stands for no caption, or that guidance steers
        away from. Stage autoencoder does not read it.

    Raises:
      UsageError: parts of the config that do not fit together.
    """
    spec = SPECS[config.stage](config, null_prompt)
    return _adapted(spec, config) if config.lora.rank else spec


def _adapted(spec: StageSpec, config: TrainConfig) -> StageSpec:
    """The stage with adapters in training, and its transformers fixed, in the run's dtype."""
    lora, dtype = config.lora, jnp.dtype(config.dtype)
    names, layers = [name for name in spec.trained if name in ADAPTED], layers_of(lora.layers)
    make = lambda key: new_adapters(config.transformer, layers, lora.rank, key=key)
    cast_init = lambda init: lambda key: cast_weights(init(key), dtype)
    return replace(
        spec,
        trained={name: make if name in names else init for name, init in spec.trained.items()},
        fixed=spec.fixed | {base_of(name): cast_init(spec.trained[name]) for name in names},
        updates=tuple(with_adapters(update, names, lora.scale) for update in spec.updates),
    )


def _teacher_forcing(config: TrainConfig, null_prompt: tuple[int, ...]) -> StageSpec:
    task = TeacherForcing(
        null_prompt=null_prompt,
        passes=config.passes,
        time=config.time,
        caption_dropout=config.caption_dropout,
    )
    trained, fixed = {"transformer": _transformer(config)}, _text_encoder(config)
    if config.train_text_encoder:
        trained, fixed = {**trained, "text_encoder": _trained_text_encoder(config)}, {}
    return StageSpec(
        trained, fixed, (Update(teacher_forcing_loss(task), tuple(trained), config.optim),)
    )


def _autoencoder(config: TrainConfig, _: tuple[int, ...]) -> StageSpec:
    of_vae = lambda nets, video, key: autoencoder_loss(
        nets["vae"], video, key, config.autoencoder, nets.get("critic")
    )
    of_critic = lambda nets, video, key: picture_critic_loss(
        nets["critic"], nets["vae"], video, key, config.autoencoder
    )
    trained: dict[str, Init] = {"vae": lambda key: VAE(config.vae, key=key)}
    updates = [Update(_clips_loss(config, of_vae), ("vae",), config.optim)]
    if config.autoencoder.adversarial:
        trained["critic"] = lambda key: PatchCritic(key=key)
        updates.append(
            Update(_clips_loss(config, of_critic), ("critic",), config.critic_optim, "critic")
        )
    return StageSpec(trained=trained, fixed={}, updates=tuple(updates), exported=("vae",))


def _clips_loss(config: TrainConfig, loss_of: Callable) -> Loss:
    height, width = config.clip_size

    def loss(trained: Nets, fixed: Nets, batch, key):
        value, metrics = loss_of({**fixed, **trained}, paint(batch, height, width), key)
        return value, weighted(
            {
                name: jnp.asarray(metric, jnp.float32)
                for name, metric in metrics.items()
                if name != "loss"
            }
        )

    return loss


def _ode_init(config: TrainConfig, null_prompt: tuple[int, ...]) -> StageSpec:
    task, fixed = ode_init_task(config, null_prompt), _text_encoder(config)
    if not task.stored:
        fixed["teacher"] = _teacher(config)
    return StageSpec(
        trained={"student": _transformer(config)},
        fixed=fixed,
        updates=(Update(ode_init_loss(task), ("student",), config.optim),),
        exported=("student",),
        # The points of a trajectory, its end, and the film itself.
        films_per_record=len(task.teacher_steps) + 2 if task.stored else 1,
        histories=0 if task.stored else task.teacher.histories,
    )


def ode_init_task(config: TrainConfig, null_prompt: tuple[int, ...]) -> ODEInit:
    """What the loss of stage ode_init needs beside networks and data.

    `UsageError` if the student's times are not among the teacher's.
    """
    student = config.self_forcing.sampler
    return ODEInit(
        null_prompt=null_prompt,
        student=student,
        teacher=config.ode.sampler(student.shift),
        passes=config.passes,
        rollout_weights=config.rollout_weights,
        stored=bool(config.ode.store),
        times_at_once=config.ode.times_at_once or None,
    )


def _dmd(config: TrainConfig, null_prompt: tuple[int, ...]) -> StageSpec:
    """The student is updated at every generator_every-th step, the critic at each."""
    task = DistributionMatching(
        null_prompt=null_prompt,
        passes=config.passes,
        self_forcing=config.self_forcing,
        dmd=config.dmd,
        gan=config.gan,
        rollout_weights=config.rollout_weights,
        time_weight=config.time.weight,
    )
    trained = {"student": _transformer(config), "fake_score": _transformer(config)}
    if config.gan.on:
        sizes = config.transformer
        trained["head"] = lambda key: config.gan.head(sizes.dim, sizes.num_layers, key=key)
    generator = Update(
        generator_loss(task),
        ("student",),
        config.optim,
        "generator",
        config.generator_every,
        start=config.generator_start,
    )
    critic = Update(
        critic_loss(task),
        tuple(name for name in trained if name != "student"),
        config.critic_optim,
        "critic",
        rates={"head": config.gan.head_rate},
    )
    advice = (
        "the fake score diverges: lower critic_optim.lr, or raise generator_every "
        "(max_critic_mse is this limit)"
    )
    return StageSpec(
        trained=trained,
        fixed=_text_encoder(config) | {"teacher": _teacher(config)},
        updates=(generator, critic),
        exported=("student",),
        limits={"critic_mse": (config.max_critic_mse, advice)},
        histories=1,
        exits=config.self_forcing.sampler.steps,
    )


# Every stage of table.py, with its networks and losses.
SPECS: dict[str, Callable[[TrainConfig, tuple[int, ...]], StageSpec]] = {
    "teacher_forcing": _teacher_forcing,
    "autoencoder": _autoencoder,
    "ode_init": _ode_init,
    "dmd": _dmd,
}


def _transformer(config: TrainConfig) -> Init:
    return lambda key: Transformer(config.transformer, key=key)


def _teacher(config: TrainConfig) -> Init:
    """In the dtype it computes in."""
    return lambda key: cast_weights(_transformer(config)(key), jnp.dtype(config.dtype))


def _trained_text_encoder(config: TrainConfig) -> Init:
    return lambda key: UMT5Encoder(config.text_encoder, key=key)


def _text_encoder(config: TrainConfig) -> dict[str, Init]:
    """Not trained, so held in config.dtype throughout, as it is loaded; none with embeddings."""
    cast = lambda leaf: leaf.astype(config.dtype)
    init = lambda key: jax.tree.map(cast, _trained_text_encoder(config)(key))
    return {} if config.data.embeddings else {"text_encoder": init}
