"""A training run as one frozen dataclass, checked as a whole; one error lists all faults.

configs/*.py fill it in and `--config.optim.lr=3e-5` changes one field (flags.py). The resolved
config is saved as config.json beside the checkpoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from causalcine_jax.config import ROLLOUT_WEIGHTS, MemoryConfig, PassConfig
from causalcine_jax.errors import choice_faults, least_faults, raise_faults, range_faults
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.presets import PRESETS
from causalcine_jax.storyworld.world import WORLDS, WorldConfig
from causalcine_jax.training.checks import type_faults
from causalcine_jax.training.config_parts import (
    MATMUL_PRECISIONS,
    TRAIN_DTYPES,
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    LoraConfig,
    SampleConfig,
    TimeConfig,
)
from causalcine_jax.training.optim import OptimConfig
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig
from causalcine_jax.training.stages.dmd_gradient import DMDConfig
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.ode import ODEConfig
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig
from causalcine_jax.training.stages.table import STAGES, StageFacts

_SMALL = PRESETS["storyworld"]
_AT_LEAST_ONE = (
    "steps",
    "batch",
    "seq",
    "remat_layers",
    "max_nan_steps",
    "log_every",
    "chunk_frames",
    "generator_every",
)


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. `UsageError` listing every fault.

    stage            teacher_forcing (DiT and text encoder on latents), autoencoder (VAE on painted
                     clips), or a student's: ode_init, then dmd
    out              folder of all that the run makes. In a config file or flag, {out} in another
                     path stands for it
    seed             of weights, noise and the order of films
    steps            of the whole run
    batch            films (or clips) per step, over all devices
    seq              devices that share their films, each with some of a chunk's tokens and heads.
                     More of them hold fewer films at once, so each device needs less memory
    dtype            that networks compute in. Weights and optimizer stay float32, and so do norms,
                     modulation and time embedding
    matmul_precision of products in float32; "" means jax's default. bfloat16 rounds their factors
                     and sums in float32: on two cores with AMX a step takes four fifths of the time
    remat            recompute layers in the backward pass, except self-attention by a kernel: less
                     memory, up to a third more time
    remat_layers     with remat: keep tokens only before every so many layers. A divisor of the
                     number of layers near its square root keeps least, for another third more time.
                     Above 1, accelerators recompute self-attention too
    segments_at_once chunks of the packed pass that attend at once; 0: all. Fewer need less memory,
                     and with remat attention that is not kept is computed once more
    rollout_weights  stages ode_init and dmd on several devices: weights of the network that makes
                     a film. gathered: each device holds them all, in `dtype`, during a rollout.
                     sharded: each pass gathers them again, a layer at a time. That needs less
                     memory (29 GB at 14B), but is nearly all that a step sends (19 of 21 TB)
    init             a model to start from, in any format that is read (convert/formats.py), instead
                     of random weights. Sizes are then those of that model
    new_latents      stage teacher_forcing, with init: its transformer goes on with the latents of
                     another VAE. The patch embedding and the head begin anew, with in_dim, out_dim,
                     patch_size and predicts of `transformer`
    new_layers       as new_latents, but with so many more layers, spread over its depth. Each
                     copies the one before it, and adds nothing until it is trained
    teacher          stages ode_init and dmd: the model that the student learns from; its text
                     encoder serves both. The fake score starts as the teacher, and so does the
                     student if `init` is empty
    train_text_encoder  with the DiT. False keeps the text encoder of `init`, in `dtype`. A
                     student's text encoder is never trained
    caption_dropout  fraction of films whose prompts are all replaced by the null prompt, so that
                     guidance can be used
    max_nan_steps    the run stops after so many consecutive steps whose loss or gradient is not
                     finite; each of them is skipped
    generator_every  stage dmd: steps per update of the student. Every step updates the critic
                     (fake score and head)
    generator_start  stage dmd: the student's first update comes after so many steps, for which only
                     fake score and head learn. Its learning rate is that of the run's step
    critic_optim     the critic's optimizer, without its ema_decay; `optim` is the other network's
    max_critic_mse   stage dmd: the run stops as diverged if the fake score's mean squared error,
                     weighted by time.weight, is larger over a record. A useless score has about 2,
                     sound ones have 0.3
    log_every        steps between records in metrics.jsonl
    tensorboard      write the records for TensorBoard too (the extra `tensorboard`)
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
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    new_latents: bool = False
    new_layers: int = 0
    generator_start: int = 0
    matmul_precision: str = ""

    def __post_init__(self):
        raise_faults("config", self.faults())

    def faults(self) -> list[str]:
        """Everything that is wrong. A wrong type hides faults of range, and those hide others."""
        types = lambda: type_faults(self)
        for check in (types, self._range_faults, self._combination_faults):
            if found := [*check()]:
                return found
        return []

    def _range_faults(self) -> Iterable[str]:
        yield from choice_faults("stage", self.stage, STAGES)
        yield from choice_faults("dtype", self.dtype, TRAIN_DTYPES)
        yield from choice_faults("matmul_precision", self.matmul_precision, MATMUL_PRECISIONS)
        yield from choice_faults("rollout_weights", self.rollout_weights, ROLLOUT_WEIGHTS)
        yield from least_faults(self, _AT_LEAST_ONE, 1)
        yield from least_faults(self, ("segments_at_once", "generator_start", "new_layers"), 0)
        yield from range_faults("caption_dropout", self.caption_dropout, 0, 1)
        if not self.out:
            yield "out must name a folder"
        yield from range_faults("max_critic_mse", self.max_critic_mse, 0, open_low=True)
        for part in (
            self.time,
            self.optim,
            self.data,
            self.held_out,
            self.autoencoder,
            self.lora,
            self.checkpoint,
            self.sample,
        ):
            yield from part.faults()
        yield from self.critic_optim.faults("critic_optim")
        for of_stage in (self.ode, self.self_forcing, self.dmd, self.gan):
            yield from of_stage.faults()

    def _combination_faults(self) -> Iterable[str]:
        for name, optim in zip(("optim", "critic_optim"), self.optims):
            yield from self._schedule_faults(name, optim)
        if self.stage == "ode_init" and self.ode.store and self.data.retell:
            yield (
                "data.retell: the trajectories of ode.store were made under the captions of "
                "data.store; leave one of the two out"
            )
        yield from self._held_out_faults()
        if self.lora.rank and self.facts.clips:
            yield f"lora.rank: stage {self.stage} trains a VAE, which has no adapters"
        elif self.lora.rank and not self.facts.student:
            if self.train_text_encoder:
                yield "lora.rank needs train_text_encoder=False: only the transformer has adapters"
            if not self.init:
                yield "lora.rank needs init, the model that the adapters change"
        if self.facts.clips:
            yield from self.autoencoder.faults_beside(self.init, self.optim.weight_decay)
        for new in ("new_latents", "new_layers"):
            if getattr(self, new) and not (self.stage == "teacher_forcing" and self.init):
                yield f"{new} needs stage teacher_forcing and init, the model that goes on"
            if getattr(self, new) and self.lora.rank:
                yield f"{new} needs lora.rank=0: adapters leave the network itself fixed"
        if self.time.draws > 1 and self.stage != "teacher_forcing":
            yield "time.draws above 1 needs stage teacher_forcing"
        if self.time.own_history and self.stage != "teacher_forcing":
            yield "time.own_history above 0 needs stage teacher_forcing"
        first = -(-self.generator_start // self.generator_every) * self.generator_every
        if self.stage == "dmd" and first >= self.steps:
            why = "lower generator_start or generator_every"
            yield f"the student's first update is at step {first + 1} of {self.steps}: {why}"
        elif self.generator_start and self.stage != "dmd":
            yield "generator_start needs stage dmd"
        if self.data.return_weight != 1 and self.stage != "teacher_forcing":
            yield "data.return_weight needs stage teacher_forcing"
        fixed = self.facts.student or not (self.facts.clips or self.train_text_encoder)
        if self.data.embeddings and not fixed:
            yield "data.embeddings needs train_text_encoder=False, and a stage that reads prompts"
        if self.data.chunks and self.stage not in ("teacher_forcing", "dmd"):
            yield "data.chunks needs stage teacher_forcing or dmd"
        if self.lora.rank and "muon" in (self.optim.optimizer, self.critic_optim.optimizer):
            yield "lora.rank needs optimizer=adamw: muon has no rule for adapters"
        if self.facts.student and not self.teacher:
            yield f"stage {self.stage} needs teacher, the model folder of a trained base model"
        if self.stage == "teacher_forcing" and not self.init:
            yield from self._network_faults()
        elif self.new_latents:
            yield from self._latent_faults()

    def _schedule_faults(self, name: str, optim: OptimConfig) -> Iterable[str]:
        if self.batch % optim.accumulation:
            yield f"batch {self.batch} is not divisible by {name}.accumulation {optim.accumulation}"
        if optim.schedule == "cosine" and optim.warmup >= self.steps:
            yield f"{name}.warmup {optim.warmup} must be shorter than steps {self.steps}"

    def _held_out_faults(self) -> Iterable[str]:
        if not self.held_out.every:
            return
        if self.facts.student:
            yield (
                f"held_out.every: stage {self.stage} has no loss that says how good its model is; "
                "evaluate the model instead"
            )
        elif not self.facts.clips and not self.held_out.store:
            yield "held_out.every needs held_out.store, of films that are not trained on"
        if self.held_out.films % self.batch:
            yield f"held_out.films {self.held_out.films} is not a multiple of batch {self.batch}"

    def _latent_faults(self) -> Iterable[str]:
        sizes = self.transformer
        if sizes.in_dim != sizes.out_dim:
            yield f"transformer.in_dim {sizes.in_dim} is not transformer.out_dim {sizes.out_dim}"

    def _network_faults(self) -> Iterable[str]:
        sizes = self.transformer
        if sizes.text_dim != self.text_encoder.dim:
            yield (
                f"transformer.text_dim {sizes.text_dim} is not "
                f"text_encoder.dim {self.text_encoder.dim}"
            )
        yield from self._latent_faults()
        if not self.train_text_encoder:
            yield "train_text_encoder=False needs init, a model folder with a trained text encoder"

    @property
    def optims(self) -> tuple[OptimConfig, ...]:
        """The optimizers of the stage's updates."""
        critic = self.stage == "dmd" or (self.facts.clips and self.autoencoder.adversarial)
        return (self.optim, self.critic_optim) if critic else (self.optim,)

    @property
    def facts(self) -> StageFacts:
        return STAGES[self.stage]

    def adds_skip(self, there: TransformerConfig) -> bool:
        """Whether the transformer of `init`, whose sizes are `there`, gets a new input skip."""
        asked = self.transformer.skip_dim and not there.skip_dim
        return bool(asked and not self.lora.rank and not self.facts.student)

    @property
    def passes(self) -> PassConfig:
        """How the networks' passes run."""
        remat = self.remat_layers if self.remat else 0
        return PassConfig(self.memory, self.chunk_frames, remat, self.segments_at_once or None)

    @property
    def world(self) -> WorldConfig:
        return WORLDS[self.data.world]()

    @property
    def clip_size(self) -> tuple[int, int]:
        """Height and width in pixels of a clip of stage autoencoder."""
        crop = self.autoencoder.crop
        return crop if any(crop) else (self.world.height, self.world.width)
