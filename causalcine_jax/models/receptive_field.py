"""Which history frames a chunk attends to: the window, and what memory retrieves (paper 3.3).

With memory_policies.py, this is all of content-aware memory routing (paper Eq. 6 to 9). The result
is a list of indices into a pool of history frames, newest first, with the number of valid entries.
The packed training pass and the streaming rollout both call it, so they cannot disagree. Invalid
entries, which occur early in a film, are at the end of the list. Attention therefore needs a length
and never a mask.

How a list is made: distance of every pool frame to the chunk -> window by distance -> top-K of the
rest by the policy's score -> sort by distance. Because the order is newest first, a frame's index
in the list is its block-relative slot, less the chunk's own frames.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.memory_policies import POLICIES, Candidates
from causalcine_jax.parallel.ulysses import sum_over_heads

FAR = jnp.iinfo(jnp.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The history part of a chunk's receptive field, newest frame first.

    frame   frame slot in the pool; entries from `length` on are arbitrary but in range
    slot    temporal RoPE index: the frame's place in the field, counted back from the chunk's
            newest frame
    time    the frame's index in the film, -1 from `length` on (reports show what memory retrieved)
    length  number of valid entries
    """

    frame: Int[Array, "*b r"]
    slot: Int[Array, "*b r"]
    time: Int[Array, "*b r"]
    length: Int[Array, "*b"]

    def first(self, frames: int) -> "ReceptiveField":
        """The nearest `frames` frames of the field."""
        return ReceptiveField(
            self.frame[..., :frames],
            self.slot[..., :frames],
            self.time[..., :frames],
            jnp.minimum(self.length, frames),
        )


def field_size(pool_frames: int, memory: MemoryConfig, chunk_frames: int) -> int:
    """Static number of history entries R of a field over a pool of `pool_frames` frame slots."""
    return min(pool_frames, memory.window_chunks * chunk_frames + memory.retrieved_frames)


def receptive_field(
    query_descriptor: Float[Array, "h d"],
    history_descriptors: Float[Array, "f h d"],
    history_time: Int[Array, " f"],
    chunk_index: Int[Array, ""],
    memory: MemoryConfig,
    chunk_frames: int,
) -> ReceptiveField:
    """The field of one chunk in one layer, over a pool of F frame slots.

    query_descriptor     mean of the chunk's unrotated, normed queries over its frames and tokens
    history_descriptors  mean of each pool frame's unrotated, normed keys over its tokens
    history_time         each pool frame's index in the film, negative where the slot is empty
    """
    pool_frames = history_time.shape[0]
    size = field_size(pool_frames, memory, chunk_frames)
    distance = chunk_index * chunk_frames - 1 - history_time  # 0 = the frame right before the chunk
    is_history = (history_time >= 0) & (distance >= 0)
    selected = is_history & (distance < memory.window_chunks * chunk_frames)

    count, score_of = min(memory.retrieved_frames, pool_frames), POLICIES[memory.policy].score
    if count and score_of is not None:
        candidate = is_history & ~selected
        similarity = functools.partial(_similarity, query_descriptor, history_descriptors)
        score = score_of(Candidates(similarity, history_time, chunk_index, chunk_frames))
        _, top = jax.lax.top_k(jnp.where(candidate, score, -jnp.inf), count)
        selected |= jnp.zeros_like(selected).at[top].set(True) & candidate

    nearest_first, frame = jax.lax.top_k(jnp.where(selected, -distance, -FAR), size)
    length = jnp.sum(selected, dtype=jnp.int32)
    index = jnp.arange(size, dtype=jnp.int32)
    behind = (
        index
        if memory.positions == "block_relative"
        else jnp.where(index < length, -nearest_first, 0)
    )
    return ReceptiveField(
        frame=frame.astype(jnp.int32),
        slot=chunk_frames + behind,
        time=jnp.where(index < length, history_time[frame], -1),
        length=length,
    )


def _similarity(query: Float[Array, "h d"], keys: Float[Array, "f h d"]) -> Float[Array, " f"]:
    """Of each frame to the chunk, without gradient (paper 3.3, Eq. 7)."""
    query, keys = jax.lax.stop_gradient((query, keys))
    return sum_over_heads(jnp.einsum("hd,fhd->f", query, keys, precision="highest"))
