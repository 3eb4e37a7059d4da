"""Which history frames a chunk attends to: the window, and what memory retrieves (paper 3.3).

With memory_policies.py, this is all of content-aware memory routing (paper Eq. 6 to 9). The result
is a list of indices into a pool of history frames, newest first, with the number of valid entries.
The packed training pass and the streaming rollout both call it, so both choose by one rule. Only
scores that are equal up to rounding may be ranked differently. Invalid entries, which occur early
in a film, are at the end of the list. Attention therefore needs a length and never a mask.

How a list is made: distance of every pool frame to the chunk -> window by distance -> top-K of the
rest by the policy's score -> sort by distance. The order is newest first, so a frame's temporal
position is its index in the list plus the chunk's number of frames.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.memory_policies import POLICIES, Candidates
from causalcine_jax.parallel.ulysses import sum_over_heads

FAR = jnp.iinfo(jnp.int32).max
# Position of a chunk's first frame after a cut, counted from its field's oldest: `transition_from`
# in Infinity-RoPE's code (arXiv 2511.20649, wan/modules/causal_model.py).
CUT_POSITION = 45


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The history part of a chunk's receptive field, newest frame first.

    slot      frame slot in the pool; entries from `length` on are arbitrary but in range
    position  temporal RoPE index: the frame's place in the field, counted back from the chunk's
              newest frame
    frame     index in the film, -1 from `length` on (reports show what memory retrieved)
    length    number of valid entries
    """

    slot: Int[Array, "*b r"]
    position: Int[Array, "*b r"]
    frame: Int[Array, "*b r"]
    length: Int[Array, "*b"]

    def first(self, frames: int) -> "ReceptiveField":
        """The nearest `frames` frames of the field."""
        return ReceptiveField(
            self.slot[..., :frames],
            self.position[..., :frames],
            self.frame[..., :frames],
            jnp.minimum(self.length, frames),
        )


def field_size(pool_frames: int, memory: MemoryConfig, chunk_frames: int) -> int:
    """Static number of history entries R of a field over a pool of `pool_frames` frame slots."""
    return min(pool_frames, memory.window_chunks * chunk_frames + memory.retrieved_frames)


def describe(keys: Float[Array, "*b p h d"], parts: int = 1) -> Float[Array, "*b g h d"]:
    """A frame's descriptors: its unrotated, normed keys' mean over tokens, float32 (paper Eq. 6).

    With several parts, which are equal runs of tokens, row by row: the mean over each.
    """
    *batch, tokens, heads, width = keys.shape
    runs = keys.astype(jnp.float32).reshape(*batch, parts, tokens // parts, heads, width)
    return jnp.mean(runs, axis=-3)


def choose_fields(
    q: Float[Array, "b t h e"],
    prompt_key: Float[Array, "b h e"] | None,
    descriptors: Float[Array, "b f g h e"],
    frame: Int[Array, " f"],
    chunk_index: Int[Array, ""],
    memory: MemoryConfig,
    chunk_frames: int,
) -> ReceptiveField:
    """Each film's field [b, ...] for one chunk in one layer.

    q                   the chunk's unrotated, normed queries; their mean asks memory (paper Eq. 6),
                        or one of each part, under a policy `by_parts`
    prompt_key          asks in their place, under a policy `by_prompt`: the prompt's mean key
    descriptors, frame  of the pool's F frames, as `receptive_field` takes them
    """
    if prompt_key is not None:
        queries = prompt_key[:, None]
    elif POLICIES[memory.policy].by_parts:
        run = q.shape[1] // (chunk_frames * descriptors.shape[2])  # tokens of a part
        queries = q[:, run // 2 :: run].astype(jnp.float32)
    else:
        queries = jnp.mean(q.astype(jnp.float32), axis=1, keepdims=True)
    choose = lambda queries, keys: receptive_field(
        queries, keys, frame, chunk_index, memory, chunk_frames
    )
    return jax.vmap(choose)(queries, descriptors)


def receptive_field(
    queries: Float[Array, "n h d"],
    descriptors: Float[Array, "f g h d"],
    frame: Int[Array, " f"],
    chunk_index: Int[Array, ""],
    memory: MemoryConfig,
    chunk_frames: int,
) -> ReceptiveField:
    """The field of one chunk in one layer, over a pool of F frame slots.

    queries      mean of the chunk's unrotated, normed queries over its frames and tokens,
                 or what else the policy asks by
    descriptors  mean of each pool frame's unrotated, normed keys over the tokens of each part
    frame        each pool frame's index in the film, negative where the slot is empty
    """
    pool_frames = frame.shape[0]
    size = field_size(pool_frames, memory, chunk_frames)
    distance = chunk_index * chunk_frames - 1 - frame  # 0 = the frame right before the chunk
    # Causality: the chunk's own clean copy and all later chunks have a negative distance.
    is_history = (frame >= 0) & (distance >= 0)
    selected = is_history & (distance < memory.window_chunks * chunk_frames)

    count, score_of = min(memory.retrieved_frames, pool_frames), POLICIES[memory.policy].score
    if count and score_of is not None:
        candidate = is_history & ~selected
        queries, descriptors = jax.lax.stop_gradient((queries, descriptors))
        means = jnp.mean(descriptors, axis=1)
        similarity = functools.partial(_similarity, jnp.mean(queries, axis=0), means)
        newest = means[jnp.argmin(jnp.where(is_history, distance, FAR))]
        resemblance = functools.partial(_resemblance, newest, means)
        attention = functools.partial(_attention, queries, descriptors, candidate)
        score = score_of(
            Candidates(similarity, resemblance, attention, frame, chunk_index, chunk_frames)
        )
        score = jnp.where(frame < memory.sink_frames, jnp.inf, score)
        _, top = jax.lax.top_k(jnp.where(candidate, score, -jnp.inf), count)
        selected |= jnp.zeros_like(selected).at[top].set(True) & candidate

    nearest_first, slot = jax.lax.top_k(jnp.where(selected, -distance, -FAR), size)
    length = jnp.sum(selected, dtype=jnp.int32)
    index = jnp.arange(size, dtype=jnp.int32)
    match memory.positions:
        case "block_relative":
            behind = index
        case "absolute":
            behind = jnp.where(index < length, -nearest_first, 0)
        case "after_cut":
            behind = index + jnp.maximum(0, CUT_POSITION - length)
    return ReceptiveField(
        slot=slot.astype(jnp.int32),
        position=chunk_frames + behind,
        frame=jnp.where(index < length, frame[slot], -1),
        length=length,
    )


def _similarity(query: Float[Array, "h d"], keys: Float[Array, "f h d"]) -> Float[Array, " f"]:
    """Each frame's similarity to the chunk (paper 3.3, Eq. 7)."""
    return sum_over_heads(jnp.einsum("hd,fhd->f", query, keys, precision="highest"))


def _resemblance(newest: Float[Array, "h d"], keys: Float[Array, "f h d"]) -> Float[Array, " f"]:
    """Each frame's cosine to the newest frame, times the newest's length."""
    squares = jnp.sum(jnp.square(keys), axis=(-2, -1))
    return _similarity(newest, keys) / jnp.sqrt(jnp.maximum(sum_over_heads(squares), 1e-12))


def _attention(
    queries: Float[Array, "n h d"], keys: Float[Array, "f g h d"], candidate: Bool[Array, " f"]
) -> Float[Array, " f"]:
    """Each candidate's share of the queries' attention, summed over queries and heads.

    A part that fits a query exactly wins much of its attention. In a frame's mean it would be lost.
    """
    products = jnp.einsum("nhd,fghd->nhfg", queries, keys, precision="highest")
    logits = jnp.where(candidate[:, None], products / jnp.sqrt(queries.shape[-1]), -FAR)
    shares = jax.nn.softmax(logits, axis=(-2, -1))
    return sum_over_heads(jnp.sum(shares, axis=(0, 1, 3)))
