"""True films of StoryWorld: the evaluation's history, and the films that measure the judge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.storyworld import WorldStory, render, scene_parameters

_paint = jax.jit(functools.partial(render, xp=jnp), static_argnames=("height", "width"))


def true_film(story: WorldStory) -> UInt8[np.ndarray, "t h w 3"]:
    """Renders all frames of the story."""
    shapes = scene_parameters(story)["shapes"]
    return np.asarray(
        _paint({"shapes": shapes}, height=story.world.height, width=story.world.width)
    )


def true_cuts(story: WorldStory) -> list[int]:
    """Returns the first frames of all shots but the first."""
    return [shot.frames.start for shot in story.shots[1:]]
