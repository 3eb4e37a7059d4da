"""A field that grows with its film, inside one program.

A field has a static number of entries, few of them valid early in a film. On a CPU, gathering,
rotating and attending to invalid entries takes as long as to valid ones. The program therefore
holds a few sizes of the field, and a chunk takes the smallest that is large enough. Chunk index and
length stay arrays, so a film still compiles once. On an accelerator this would gain nothing: each
size takes seconds to compile, and the kernels already skip keys beyond a length.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

MOST_STEPS = 6  # each one is compiled


def field_steps(size: int, chunk_frames: int) -> list[int]:
    """At most MOST_STEPS sizes of a growing field, up to `size`; all but it are whole chunks."""
    step = chunk_frames * -(-size // (chunk_frames * MOST_STEPS))
    return [*range(step, size, step), size]


def attend_smallest(length: Int[Array, "*b"], size: int, chunk_frames: int, attend: Callable):
    """Calls `attend(frames)` with the smallest of the field's steps that holds `length` frames.

    Do not call it under vmap, which would run every step.
    """
    steps = field_steps(size, chunk_frames)
    enough = jnp.sum(jnp.asarray(steps) < jnp.max(length))
    return jax.lax.switch(enough, [functools.partial(attend, frames) for frames in steps])
