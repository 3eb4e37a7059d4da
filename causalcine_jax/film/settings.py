"""What a film is made with, decided: one value from the director down to a chunk."""

from dataclasses import dataclass

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig


@dataclass(frozen=True)
class FilmSettings:
    """Everything that decides a film's frames, beside its model and its prompts.

    height, width  pixels
    seed           of the noise
    negative       the text that guidance steers away from
    pool           with its size in frames
    """

    sampler: SamplerConfig
    memory: MemoryConfig
    pool: PoolConfig
    height: int
    width: int
    seed: int = 0
    negative: str = ""

    @property
    def histories(self) -> int:
        """Histories of one film: with guidance the negative prompt has its own."""
        return self.sampler.histories
