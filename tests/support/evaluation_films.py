"""True films for the evaluation's tests.

Optimised programs paint them and read them: under conftest's flags, both would take minutes.
"""

import functools
import os

import jax
import numpy as np

from causalcine_jax.evaluation.storyworld import reading, true_films
from causalcine_jax.storyworld import (
    WorldConfig,
    WorldStory,
    sample_story,
)

WORLD = WorldConfig.base()
SEED = 31_337
_OPTIMISED = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
if "xla_cpu_use_fusion_emitters" in os.environ.get(
    "XLA_FLAGS", ""
):  # later versions do not know it
    _OPTIMISED["xla_cpu_use_fusion_emitters"] = True


def _optimise(module, name: str, **how) -> None:
    function = getattr(module, name).__wrapped__
    setattr(module, name, jax.jit(function, compiler_options=_OPTIMISED, **how))


_optimise(reading, "_probabilities")
_optimise(true_films, "_paint", static_argnames=("height", "width"))
paint = true_films.true_film  # all frames of a story


@functools.cache
def film(index: int) -> tuple[WorldStory, np.ndarray]:
    story = sample_story(SEED, index, WORLD)
    return story, paint(story)
