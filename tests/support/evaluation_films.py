"""True films for the evaluation's tests.

An optimised program paints them: under conftest's flags, painting would take most of the time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.storyworld import (
    WorldConfig,
    WorldStory,
    render,
    sample_story,
    scene_parameters,
)

WORLD = WorldConfig.base()
SEED = 31_337
_paint = jax.jit(
    functools.partial(render, height=WORLD.height, width=WORLD.width, xp=jnp),
    compiler_options={
        "xla_backend_optimization_level": 2,
        "xla_llvm_disable_expensive_passes": False,
    },
)


def paint(story: WorldStory) -> np.ndarray:
    """Returns all frames of a story of the base world."""
    return np.asarray(_paint({"shapes": scene_parameters(story)["shapes"]}))


@functools.cache
def film(index: int) -> tuple[WorldStory, np.ndarray]:
    story = sample_story(SEED, index, WORLD)
    return story, paint(story)
