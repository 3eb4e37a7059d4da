"""What a training run is: frozen dataclasses, checked as a whole, all faults in one error.

configs/*.py fill them in, `--config.optim.lr=3e-5` changes one field (flags.py), and the resolved run is saved as config.json beside
its checkpoints.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from causalcine_jax.config import (
    PRESETS,
    ROLLOUT_WEIGHTS,
    MemoryConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from causalcine_jax.diffusion.flow import LOSS_WEIGHTS
from causalcine_jax.errors import UsageError, nearest, raise_faults
from causalcine_jax.storyworld.world import WORLDS, WorldConfig
from causalcine_jax.training.checks import choice_faults, range_faults, type_faults
from causalcine_jax.training.optim import OptimConfig
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig
from causalcine_jax.training.stages.dmd import DMDConfig
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.ode import ODEConfig
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig

STAGES = ("teacher_forcing", "autoencoder", "ode_init", "dmd")
DISTILLATION = ("ode_init", "dmd")
DTYPES = ("float32", "bfloat16")
TIME_SHARED_BY = ("film", "chunk")

_SMALL = PRESETS["storyworld"]


@dataclass(frozen=True)
class TimeConfig:
    """Noise times of training: uniform positions bent by `shift` (Wan2.1's 5), one per film (paper Eq. 5) or one per chunk.

    shift         bends uniform positions toward noise
    shared_by     film, the paper's; or chunk, so that every film shows many times
    stratified    one position from each of B equal parts of the schedule instead of B independent ones: less variance in the loss
    weight        of the squared error at time t: none, or bsmntw (diffusion/flow.py)
    """

    shift: float = 5.0
    shared_by: str = "film"
    stratified: bool = True
    weight: str = "none"

    def faults(self) -> Iterable[str]:
        yield from choice_faults("time.shared_by", self.shared_by, TIME_SHARED_BY)
        yield from choice_faults("time.weight", self.weight, LOSS_WEIGHTS)
        yield from range_faults("time.shift", self.shift, 0, 100, open_low=True)


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    world       StoryWorld films: base (48x80, 30 latent frames), montage (base with a cut at almost every chunk), base-long and montage-long (60
                latent frames), storyworld (96x160, 60), or without a cut: single (base) and storyworld-single
    seed        of the stories; evaluation uses others
    films       in the latent store
    store       folder of the latent store; made first if it is missing, unless it is "" (then OUT/latents). Several, joined by commas,
                are mixed film by film. Not read by stage autoencoder
    vae         model folder of the VAE that encodes, and that goes into the exported model; "" for that of `init`, and without one the embedded
    retell      StoryWorld only: prompts are written anew at every visit of a film, with other names (data/retelling.py)
    return_weight  with retell: weight in the loss of a chunk in which a character comes back; the others weigh 1
    clip_frames latent frames F of a clip of stage autoencoder: 4F - 3 video frames for a VAE of Wan2.1's strides
    clips_per_story  clips of a batch that come from one story; more cost the host less, which counts for clips of one frame
    threads     that read films ahead; 0 reads between steps, which is enough for small films
    workers     processes that make clips ahead in stage autoencoder; 0 makes them in threads of this one
    max_bad_fraction  of records that may be corrupt; they are skipped and counted, more of them stop the run
    """

    world: str = "base"
    seed: int = 0
    films: int = 2000
    store: str = ""
    vae: str = ""
    retell: bool = False
    return_weight: float = 1.0
    clip_frames: int = 3
    clips_per_story: int = 1
    threads: int = 0
    workers: int = 0
    max_bad_fraction: float = 0.01

    def faults(self) -> Iterable[str]:
        yield from choice_faults("data.world", self.world, WORLDS)
        yield from range_faults("data.films", self.films, 1)
        yield from range_faults("data.clip_frames", self.clip_frames, 1)
        yield from range_faults("data.clips_per_story", self.clips_per_story, 1)
        yield from range_faults("data.return_weight", self.return_weight, 0, open_low=True)
        if self.return_weight != 1 and not self.retell:
            yield "data.return_weight needs data.retell=True, which knows where a character comes back"
        yield from range_faults("data.threads", self.threads, 0)
        yield from range_faults("data.workers", self.workers, 0)
        yield from range_faults("data.max_bad_fraction", self.max_bad_fraction, 0, 1)


@dataclass(frozen=True)
class HeldOutConfig:
    """What is measured on films that are not trained on, for the weights and for their average.

    every   steps between measurements; 0: never
    films   how many (clips, in stage autoencoder), always the same ones under the same noise
    store   their latent store, or several joined by commas; made first, from the stories of another seed than data.seed, where one is named that is
            not there. Stage autoencoder paints clips of another seed instead
    """

    every: int = 0
    films: int = 64
    store: str = ""

    def faults(self) -> Iterable[str]:
        yield from range_faults("held_out.every", self.every, 0)
        yield from range_faults("held_out.films", self.films, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """What a run keeps on disk.

    every         steps between checkpoints
    keep          checkpoints that stay, the last ones
    export_every  steps between exports of the model; 0: at the end only
    export_dtype  of the exported model
    """

    every: int = 500
    keep: int = 2
    export_every: int = 0
    export_dtype: str = "bfloat16"

    def faults(self) -> Iterable[str]:
        yield from range_faults("checkpoint.every", self.every, 1)
        yield from range_faults("checkpoint.keep", self.keep, 1)
        yield from range_faults("checkpoint.export_every", self.export_every, 0)
        yield from choice_faults("checkpoint.export_dtype", self.export_dtype, DTYPES)


@dataclass(frozen=True)
class SampleConfig:
    """A film made by the model in training, with its contact sheet.

    every            steps between films; 0: none before the end
    at_end           one more at the end
    steps, guidance  of its sampler
    """

    every: int = 0
    at_end: bool = True
    steps: int = 25
    guidance: float = 3.0

    def faults(self) -> Iterable[str]:
        yield from range_faults("sample.every", self.every, 0)
        yield from range_faults("sample.steps", self.steps, 1)
        yield from range_faults("sample.guidance", self.guidance, 0)


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. `UsageError` listing every fault.

    stage            teacher_forcing (DiT and text encoder on latents), autoencoder (VAE on rendered clips), or a student's: ode_init, then dmd
    out              folder of the run; one that holds checkpoints is gone on with
    seed             of weights, noise and the order of films
    steps            of the whole run
    batch            films (or clips) per step, over all devices
    seq              devices that share their films, each with some of a chunk's tokens and heads: fewer films at once, less memory for each device
    dtype            that networks compute in; weights and optimizer stay float32, and so do norms, modulation and time embedding
    remat            recompute layers in the backward pass: less memory, a third more time
    remat_layers     with remat: tokens are kept before every so many layers only, and between recomputed too: with a divisor of the layers near their
                     square root, least memory, another third of the first's time
    segments_at_once chunks of the packed pass whose fields are gathered and attended to at once, 0 for all: less memory, and with remat attention is computed once more
    rollout_weights  stages ode_init and dmd on several devices, of the network that films (the student; a trajectory's teacher): gathered, once per
                     rollout, and held whole by every device meanwhile, in `dtype`; or sharded, gathered a layer at a time at each of a rollout's passes:
                     less memory, and nearly all that a step sends (at 14B 29 GB, and 19 of 21 TB). Plans of rollouts go by it too
    init             a model to start from instead of random weights, in any format that is read (convert/formats.py); sizes are then that model's
    teacher          stages ode_init and dmd: the model that the student learns from, with the text encoder of both. Without init, the student
                     (and always the fake score) starts as it
    train_text_encoder  with the DiT; False leaves it as it is in init, and holds it in `dtype`. A student's never is trained
    caption_dropout  fraction of films whose every prompt is replaced by the null prompt, so that guidance can be used
    max_nan_steps    consecutive steps with a loss or gradient that is not finite, all skipped, after which the run stops
    generator_every  stage dmd: steps per update of the student; the critic (fake score and head) is updated at each
    critic_optim     the critic's optimizer, whose ema_decay is not read; `optim` is the student's
    max_critic_mse   mean squared error of the fake score's velocities over a record that stops the run as diverged: one that says nothing has
                     about 2, sound ones 0.3
    log_every        steps between records in metrics.jsonl
    tensorboard      write them for TensorBoard too (the extra `tensorboard`)
    chunk_frames     latent frames of a chunk
    """

    stage: str = "teacher_forcing"
    out: str = "outputs/train"
    init: str = ""
    teacher: str = ""
    seed: int = 0
    steps: int = 1000
    batch: int = 8
    seq: int = 1
    dtype: str = "float32"
    remat: bool = False
    remat_layers: int = 1
    segments_at_once: int = 0
    rollout_weights: str = "gathered"
    train_text_encoder: bool = True
    caption_dropout: float = 0.1
    max_nan_steps: int = 5
    generator_every: int = 5
    max_critic_mse: float = 1.5
    log_every: int = 10
    tensorboard: bool = False
    chunk_frames: int = 3
    transformer: TransformerConfig = _SMALL.transformer
    text_encoder: TextEncoderConfig = _SMALL.text_encoder
    vae: VAEConfig = _SMALL.vae
    memory: MemoryConfig = MemoryConfig()
    time: TimeConfig = field(default_factory=TimeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    critic_optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    ode: ODEConfig = field(default_factory=ODEConfig)
    self_forcing: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    dmd: DMDConfig = field(default_factory=DMDConfig)
    gan: GANConfig = field(default_factory=GANConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self):
        raise_faults("config", self.faults())

    def faults(self) -> list[str]:
        """Everything that is wrong; empty if nothing is."""
        found = [*type_faults(self)]
        if found:
            return found
        found += [
            *choice_faults("stage", self.stage, STAGES),
            *choice_faults("dtype", self.dtype, DTYPES),
        ]
        found += choice_faults("rollout_weights", self.rollout_weights, ROLLOUT_WEIGHTS)
        for name in (
            "steps",
            "batch",
            "seq",
            "remat_layers",
            "max_nan_steps",
            "log_every",
            "chunk_frames",
            "generator_every",
        ):
            found += range_faults(name, getattr(self, name), 1)
        found += range_faults("segments_at_once", self.segments_at_once, 0)
        found += range_faults("caption_dropout", self.caption_dropout, 0, 1)
        found += [] if self.out else ["out must name a folder"]
        found += range_faults("max_critic_mse", self.max_critic_mse, 0, open_low=True)
        for part in (
            self.time,
            self.optim,
            self.data,
            self.held_out,
            self.autoencoder,
            self.checkpoint,
            self.sample,
        ):
            found += part.faults()
        found += self.critic_optim.faults("critic_optim")
        for part in (self.ode, self.self_forcing, self.dmd, self.gan):
            found += part.faults()
        if found:
            return found
        found += self._schedule_faults("optim", self.optim)
        if self.stage == "dmd":
            found += self._schedule_faults("critic_optim", self.critic_optim)
        if self.stage == "ode_init" and self.ode.store and self.data.retell:
            found.append(
                "data.retell: the trajectories of ode.store were made under the captions of data.store; leave one of the two out"
            )
        if self.held_out.every and self.stage in DISTILLATION:
            found.append(
                f"held_out.every: stage {self.stage} has no loss that says how good its model is; evaluate the model instead"
            )
        elif self.held_out.every and self.stage != "autoencoder" and not self.held_out.store:
            found.append(
                "held_out.every needs held_out.store, a latent store of films that are not trained on"
            )
        if self.held_out.films % self.batch and self.held_out.every:
            found.append(
                f"held_out.films {self.held_out.films} is not a multiple of batch {self.batch}"
            )
        if self.stage in DISTILLATION and not self.teacher:
            found.append(
                f"stage {self.stage} needs teacher, the model folder of a trained base model"
            )
        if self.stage == "teacher_forcing" and not self.init:
            found += self._network_faults()
        return found

    def _schedule_faults(self, name: str, optim: OptimConfig) -> Iterable[str]:
        if self.batch % optim.accumulation:
            yield f"batch {self.batch} is not divisible by {name}.accumulation {optim.accumulation}"
        if optim.schedule == "cosine" and optim.warmup >= self.steps:
            yield f"{name}.warmup {optim.warmup} must be shorter than steps {self.steps}"

    def _network_faults(self) -> Iterable[str]:
        if self.transformer.text_dim != self.text_encoder.dim:
            yield f"transformer.text_dim {self.transformer.text_dim} is not text_encoder.dim {self.text_encoder.dim}"
        if self.transformer.in_dim != self.transformer.out_dim:
            yield f"transformer.in_dim {self.transformer.in_dim} is not transformer.out_dim {self.transformer.out_dim}"
        if not self.train_text_encoder:
            yield "train_text_encoder=False needs init, a model folder with a trained text encoder"

    @property
    def saving(self) -> dict[str, int | None]:
        """How the packed pass saves memory, as `teacher_forced` takes it."""
        return {
            "remat": self.remat_layers if self.remat else 0,
            "segments_at_once": self.segments_at_once or None,
        }

    @property
    def world(self) -> WorldConfig:
        return WORLDS[self.data.world]()


def from_plain(plain: dict, config_class=TrainConfig, prefix: str = ""):
    """A config dataclass from nested plain data, as JSON or ml_collections holds it.

    Raises:
      UsageError: unknown keys (each with its nearest match) and faults of any part, all together.
    """
    faults, values = [], {}
    known = {f.name: f.type for f in dataclasses.fields(config_class)}
    for name, value in plain.items():
        kind = known.get(name)
        if kind is None:
            faults.append(f"unknown key {prefix}{name}, {nearest(name, known)}")
        elif dataclasses.is_dataclass(kind) and hasattr(value, "items"):
            try:
                values[name] = from_plain(value, kind, f"{prefix}{name}.")
            except UsageError as error:
                faults.append(str(error).removeprefix("config: "))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        config = config_class(**values)
    except UsageError as error:
        faults.append(str(error).removeprefix("config: "))
    except TypeError as error:
        faults.append(f"{prefix.rstrip('.') or 'config'}: {error}")
    raise_faults("config", faults)
    return config
