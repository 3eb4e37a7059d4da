"""A field that grows with its film, inside one program.

A field has a static number of places, of which a young film fills few. On a CPU gathering, rotating and attending to empty places takes as long as to others,
so there the program holds a few sizes of the field, and a chunk takes the smallest that holds its own. Chunk index and length stay arrays: a film still
compiles once. On an accelerator each size would be compiled for seconds, kernels already skip what is beyond a length, and nothing is gained.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

MOST_STEPS = 6  # each is compiled


def field_steps(size: int, chunk_frames: int) -> list[int]:
    """Numbers of frames that a field of `size` frames grows by: at most MOST_STEPS, of whole chunks but for the last."""
    step = chunk_frames * -(-size // (chunk_frames * MOST_STEPS))
    return [*range(step, size, step), size]


def at_least(length: Int[Array, "*b"], size: int, chunk_frames: int, attend: Callable):
    """`attend(frames)` for the smallest of the field's steps that holds `length` frames. Never under vmap, where all of them would run."""
    steps = field_steps(size, chunk_frames)
    enough = jnp.sum(jnp.asarray(steps) < jnp.max(length))
    return jax.lax.switch(enough, [functools.partial(attend, frames) for frames in steps])
