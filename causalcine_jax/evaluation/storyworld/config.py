"""The settings of an evaluation, checked before jax is imported."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from causalcine_jax.config import POOL_PLACES
from causalcine_jax.errors import choice_faults, least_faults, raise_faults, range_faults
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.storyworld.world import WORLDS

if TYPE_CHECKING:
    from causalcine_jax.diffusion.solvers import SamplerConfig

TRAINING_SEED = 90_210  # of the stories that trained the judge; the evaluation refuses it
HELD_OUT_SEED = 424_242  # of the evaluation's stories; training uses small seeds
# What an evaluation leaves in its folder.
FILES = ("evaluation.json", "evaluation.md", "returns.png", "recall.png")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured. None means the model's own choice.

    policies  of memory; None: the model's own, sink and none, or none alone if the model has no
              memory frames
    films    free films per policy; 0 measures recall alone
    batch    films generated at once
    pool_on  where their history is kept
    most_shown  a return's character is in at most this share of the chunks older than the window:
                the smaller, the more memory must choose
    """

    world: str = "base"
    returns: int = 200
    films: int = 20
    policies: tuple[str, ...] | None = None
    steps: int | None = None
    guidance: float | None = None
    memory_guidance: float | None = None
    solver: str | None = None
    seed: int = HELD_OUT_SEED
    batch: int = 16
    pool_on: str = "device"
    most_shown: float = 1.0

    def __post_init__(self):
        raise_faults("evaluation", self.faults())

    def faults(self) -> list[str]:
        faults = choice_faults("world", self.world, WORLDS)
        policies = self.policies or ()
        for name in policies:
            faults += choice_faults("policy", name, POLICIES)
        faults += choice_faults("pool_on", self.pool_on, POOL_PLACES)
        if self.policies == ():
            faults.append("name at least one policy")
        if len(set(policies)) < len(policies):
            faults.append(f"a policy is named twice in {','.join(policies)}")
        faults += least_faults(self, ("returns", "batch"), 1)
        faults += range_faults("most_shown", self.most_shown, 0, 1, open_low=True)
        faults += [
            f"{name} must not be negative, got {getattr(self, name)}"
            for name in ("films", "seed")
            if getattr(self, name) < 0
        ]
        if self.seed == TRAINING_SEED:
            faults.append(f"seed {TRAINING_SEED} is taken: its films trained the judge")
        return faults

    def sampler(self, default: "SamplerConfig") -> "SamplerConfig":
        """Returns `default` with the fields set here replaced."""
        asked = {
            name: getattr(self, name)
            for name in ("steps", "guidance", "memory_guidance", "solver")
            if getattr(self, name) is not None
        }
        return default.changed(**asked)
