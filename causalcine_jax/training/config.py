"""What a training run is: frozen dataclasses, checked as a whole, all faults in one error.

configs/*.py fill them in, `--config.optim.lr=3e-5` changes one field (flags.py), and the resolved run is saved as config.json beside
its checkpoints.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from causalcine_jax.config import PRESETS, MemoryConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.data.storyworld.world import WORLDS, WorldConfig
from causalcine_jax.diffusion.flow import LOSS_WEIGHTS
from causalcine_jax.errors import UsageError, nearest, raise_faults

STAGES = ("teacher_forcing", "autoencoder")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "constant")
DTYPES = ("float32", "bfloat16")
TIME_SHARED_BY = ("film", "chunk")

_SMALL = PRESETS["storyworld"]


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer.

    optimizer     adamw, or muon: orthogonalised momentum for blocks' matrices and convolutions, adamw for everything else
    lr            peak learning rate (muon's updates are scaled to the size of adamw's, so that one rate serves both)
    schedule      cosine (down to final_lr * lr at the last step) or constant; both after `warmup` linear steps
    weight_decay  of the weights of linear layers and convolutions only
    clip          largest global gradient norm; 0 for no clipping
    accumulation  micro-batches per step: the batch is cut into this many, gradients are averaged
    ema_decay     of the exponential moving average of the weights, which is what is exported; 0 exports the weights themselves
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 100
    final_lr: float = 0.02
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulation: int = 1
    ema_decay: float = 0.999

    def faults(self) -> Iterable[str]:
        yield from _choice("optim.optimizer", self.optimizer, OPTIMIZERS)
        yield from _choice("optim.schedule", self.schedule, SCHEDULES)
        yield from _range("optim.lr", self.lr, 0, 10, open_low=True)
        yield from _range("optim.warmup", self.warmup, 0)
        yield from _range("optim.final_lr", self.final_lr, 0, 1)
        yield from _range("optim.weight_decay", self.weight_decay, 0)
        yield from _range("optim.clip", self.clip, 0)
        yield from _range("optim.accumulation", self.accumulation, 1)
        for name in ("b1", "b2", "ema_decay"):
            yield from _range(f"optim.{name}", getattr(self, name), 0, 1, open_high=True)


@dataclass(frozen=True)
class TimeConfig:
    """Noise times of training: uniform positions bent by `shift` (Wan2.1's 5), one per film (paper Eq. 5) or one per chunk.

    stratified    one position from each of B equal parts of the schedule instead of B independent ones: less variance in the loss
    weight        of the squared error at time t: none, or bsmntw (diffusion/flow.py)
    """

    shift: float = 5.0
    shared_by: str = "film"
    stratified: bool = True
    weight: str = "none"

    def faults(self) -> Iterable[str]:
        yield from _choice("time.shared_by", self.shared_by, TIME_SHARED_BY)
        yield from _choice("time.weight", self.weight, LOSS_WEIGHTS)
        yield from _range("time.shift", self.shift, 0, 100, open_low=True)


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    world       StoryWorld films: base (48x80, 30 latent frames), montage (base with a cut at almost every chunk) or storyworld (96x160, 60)
    seed        of the stories; evaluation uses others
    films       in the latent store
    store       folder of the latent store; made first if it is missing, unless it is "" (then OUT/latents). Several, joined by commas,
                are mixed film by film. Not read by stage autoencoder
    vae         model folder of the VAE that encodes, and that goes into the exported model; "" for that of `init`, and without one the embedded
    clip_frames latent frames F of a clip of stage autoencoder: 4F - 3 video frames for a VAE of Wan2.1's strides
    threads     that read films ahead; 0 reads between steps, which is enough for small films
    workers     processes that make clips ahead in stage autoencoder; 0 makes them in threads of this one
    max_bad_fraction  of records that may be corrupt; they are skipped and counted, more of them stop the run
    """

    world: str = "base"
    seed: int = 0
    films: int = 2000
    store: str = ""
    vae: str = ""
    clip_frames: int = 3
    threads: int = 0
    workers: int = 0
    max_bad_fraction: float = 0.01

    def faults(self) -> Iterable[str]:
        yield from _choice("data.world", self.world, WORLDS)
        yield from _range("data.films", self.films, 1)
        yield from _range("data.clip_frames", self.clip_frames, 1)
        yield from _range("data.threads", self.threads, 0)
        yield from _range("data.workers", self.workers, 0)
        yield from _range("data.max_bad_fraction", self.max_bad_fraction, 0, 1)


@dataclass(frozen=True)
class LossConfig:
    """Stage autoencoder: weights of the KL divergence and of the edge term beside the L1 of the pixels (autoencoder.py)."""

    kl: float = 1e-3
    edge: float = 0.5

    def faults(self) -> Iterable[str]:
        yield from _range("autoencoder.kl", self.kl, 0)
        yield from _range("autoencoder.edge", self.edge, 0)


@dataclass(frozen=True)
class CheckpointConfig:
    """every: steps between checkpoints, of which the last `keep` stay. export_every: steps between exports of the model; 0: at the end only."""

    every: int = 500
    keep: int = 2
    export_every: int = 0
    export_dtype: str = "bfloat16"

    def faults(self) -> Iterable[str]:
        yield from _range("checkpoint.every", self.every, 1)
        yield from _range("checkpoint.keep", self.keep, 1)
        yield from _range("checkpoint.export_every", self.export_every, 0)
        yield from _choice("checkpoint.export_dtype", self.export_dtype, DTYPES)


@dataclass(frozen=True)
class SampleConfig:
    """A film made by the model in training, with its contact sheet: after every `every` steps (0: never) and at the end."""

    every: int = 0
    at_end: bool = True
    steps: int = 25
    guidance: float = 3.0

    def faults(self) -> Iterable[str]:
        yield from _range("sample.every", self.every, 0)
        yield from _range("sample.steps", self.steps, 1)
        yield from _range("sample.guidance", self.guidance, 0)


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. `UsageError` listing every fault.

    stage            teacher_forcing (DiT and text encoder on latents) or autoencoder (VAE on rendered clips)
    batch            films (or clips) per step, over all devices
    dtype            that networks compute in; weights and optimizer stay float32, and so do norms, modulation and time embedding
    remat            recompute layers in the backward pass: less memory, a third more time
    init             a model to start from instead of random weights, in any format that is read (convert/formats.py); sizes are then that model's
    train_text_encoder  with the DiT; False leaves it as it is in init, and holds it in `dtype`
    caption_dropout  fraction of films whose every prompt is replaced by the null prompt, so that guidance can be used
    max_nan_steps    consecutive steps with a loss or gradient that is not finite, all skipped, after which the run stops
    """

    stage: str = "teacher_forcing"
    out: str = "outputs/train"
    init: str = ""
    seed: int = 0
    steps: int = 1000
    batch: int = 8
    dtype: str = "float32"
    remat: bool = False
    train_text_encoder: bool = True
    caption_dropout: float = 0.1
    max_nan_steps: int = 5
    log_every: int = 10
    tensorboard: bool = False
    chunk_frames: int = 3
    transformer: TransformerConfig = _SMALL.transformer
    text_encoder: TextEncoderConfig = _SMALL.text_encoder
    vae: VAEConfig = _SMALL.vae
    memory: MemoryConfig = MemoryConfig()
    time: TimeConfig = field(default_factory=TimeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: LossConfig = field(default_factory=LossConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self):
        raise_faults("config", self.faults())

    def faults(self) -> list[str]:
        """Everything that is wrong; empty if nothing is."""
        found = [*_type_faults(self, "")]
        if found:
            return found
        found += [*_choice("stage", self.stage, STAGES), *_choice("dtype", self.dtype, DTYPES)]
        for name in ("steps", "batch", "max_nan_steps", "log_every", "chunk_frames"):
            found += _range(name, getattr(self, name), 1)
        found += _range("caption_dropout", self.caption_dropout, 0, 1)
        found += [] if self.out else ["out must name a folder"]
        for part in (self.time, self.optim, self.data, self.autoencoder, self.checkpoint, self.sample):
            found += part.faults()
        if found:
            return found
        if self.batch % self.optim.accumulation:
            found.append(f"batch {self.batch} is not divisible by optim.accumulation {self.optim.accumulation}")
        if self.optim.schedule == "cosine" and self.optim.warmup >= self.steps:
            found.append(f"optim.warmup {self.optim.warmup} must be shorter than steps {self.steps}")
        if self.stage == "teacher_forcing" and not self.init:
            found += self._network_faults()
        return found

    def _network_faults(self) -> Iterable[str]:
        if self.transformer.text_dim != self.text_encoder.dim:
            yield f"transformer.text_dim {self.transformer.text_dim} is not text_encoder.dim {self.text_encoder.dim}"
        if self.transformer.in_dim != self.transformer.out_dim:
            yield f"transformer.in_dim {self.transformer.in_dim} is not transformer.out_dim {self.transformer.out_dim}"
        if not self.train_text_encoder:
            yield "train_text_encoder=False needs init, a model folder with a trained text encoder"

    @property
    def world(self) -> WorldConfig:
        return WORLDS[self.data.world]()


def _choice(name: str, value, known: Iterable[str]) -> list[str]:
    return [] if value in known else [f"unknown {name} {value!r}, {nearest(str(value), known)}"]


def _range(name: str, value, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False) -> list[str]:
    if (low < value if open_low else low <= value) and (value < high if open_high else value <= high) and math.isfinite(value):
        return []
    bounds = f"more than {low}" if open_low else f"at least {low}"
    bounds += "" if high == math.inf else f" and {'less than' if open_high else 'at most'} {high}"
    return [f"{name} must be {bounds}, not {value}"]


def _type_faults(config, prefix: str) -> Iterable[str]:
    """Fields whose value is not of the annotated type (int passes for float)."""
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if dataclasses.is_dataclass(f.type):
            if not isinstance(value, f.type):
                yield f"{name} must be a {f.type.__name__}, not {value!r}"
            else:
                yield from _type_faults(value, f"{name}.")
        elif f.type in (int, float, str, bool):
            allowed = (int, float) if f.type is float else (f.type,)
            if not isinstance(value, allowed) or (isinstance(value, bool) and f.type is not bool):
                yield f"{name} must be {_ARTICLES[f.type]}, not {value!r}"


_ARTICLES = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


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
