"""What `causalcine encode` is asked for, checked before jax is imported."""

from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.errors import choice_faults, raise_faults
from causalcine_jax.storyworld.world import WORLDS

MOST_PROCESSES = 1024


@dataclass(frozen=True)
class EncodeConfig:
    """What `causalcine encode` is asked for.

    model      a model with a VAE, in any readable format. Its own tokenizer is used if it has a
               text encoder, else StoryWorld's word tokenizer
    out        the store to write
    world      a name of WORLDS
    seed       of the collection of films; held-out films need another seed than training's
    films      how many, from the collection's first on
    batch      films per VAE call, None for the device's default
    processes  more than 1 run on the CPU alone: an accelerator belongs to one process. At most one
               per shard is started
    text_len   token ids per shot
    films_per_shard  films written at a time: the most that an interruption costs a process
    """

    model: Path
    out: Path
    world: str = "base"
    seed: int = 0
    films: int = 1500
    batch: int | None = None
    processes: int = 1
    text_len: int = 64
    films_per_shard: int = 32

    def __post_init__(self):
        faults = [
            f"{name} must be positive, not {getattr(self, name)}"
            for name in ("films", "processes", "text_len", "films_per_shard")
            if getattr(self, name) < 1
        ]
        if self.batch is not None and self.batch < 1:
            faults.append(f"batch must be positive, not {self.batch}")
        if self.processes > MOST_PROCESSES:
            faults.append(f"processes must be at most {MOST_PROCESSES}, not {self.processes}")
        if self.seed < 0:
            faults.append(f"seed must not be negative, got {self.seed}")
        faults += choice_faults("world", self.world, WORLDS)
        raise_faults("encode", faults)
