"""The memory policies: which older frames a chunk retrieves (paper 3.3).

Config, command line, evaluation and receptive field read the table POLICIES, so a new policy is one
entry. jax is imported only where frames are scored: --help reads the names without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class Candidates:
    """What a policy may score the F frames of a pool by.

    similarity    () -> [F]: of each frame's keys to the chunk's queries, summed over heads (Eq. 7);
                  to the prompt's keys instead under a policy with `by_prompt`
    resemblance   () -> [F]: of each frame's keys to those of the newest frame before the chunk, the
                  cosine over all heads up to a factor that the frames share
    attention     () -> [F]: what each frame would get of the chunk's attention to all that may be
                  retrieved, estimated from parts of frames, under a policy with `by_parts`
    frame         [F], each one's index in the film; negative where the slot is empty
    chunk_index   of the chunk that asks, []
    chunk_frames  C, latent frames of a chunk
    """

    similarity: "Callable[[], Array]"
    resemblance: "Callable[[], Array]"
    attention: "Callable[[], Array]"
    frame: "Array"
    chunk_index: "Array"
    chunk_frames: int


@dataclass(frozen=True)
class Policy:
    """How memory is chosen.

    retrieves    what it retrieves, in words
    score        a score of each frame, [F]: the frames of the highest scores are retrieved. It must
                 pass no gradient, because top-k has none: attention to the retrieved frames trains
                 the queries and keys. None: no frame is retrieved
    first_only   whether it retrieves the film's first frames and no others
    reaches_all  whether it may retrieve any frame, so that every eviction loses some
    by_prompt    whether similarity is to the mean key of the prompt's tokens, as cross-attention
                 has it in the same layer (MemFlow, arXiv 2512.14699)
    by_parts     whether frames are described part by part, not by one mean
    """

    retrieves: str
    score: "Callable[[Candidates], Array] | None"
    reaches_all: bool = True
    by_prompt: bool = False
    first_only: bool = False
    by_parts: bool = False


def _first(pool: Candidates) -> "Array":
    return -pool.frame.astype("float32")


def _blind(pool: Candidates) -> "Array":
    """Pseudo-random scores in [0, 1) that depend only on frame and chunk.

    All layers, films and passes therefore draw the same frames.
    """
    import jax.numpy as jnp

    mixed = pool.frame.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) ^ pool.chunk_index.astype(
        jnp.uint32
    ) * jnp.uint32(0x85EBCA77)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return ((mixed ^ (mixed >> 16)) >> 8).astype(jnp.float32) / 2**24


def _spread(score: "Array", pool: Candidates) -> "Array":
    """Ranks by `score`, but every chunk's best frame comes before any chunk's second.

    Frames next to each other in a shot look alike.
    """
    import jax.numpy as jnp

    order = jnp.argsort(jnp.argsort(score)).astype(jnp.float32)
    chunk = pool.frame // pool.chunk_frames
    same_chunk = chunk[:, None] == chunk[None, :]
    better = jnp.sum(
        same_chunk & (order[None, :] > order[:, None]), axis=-1
    )  # frames of its chunk that come before it
    return order - better * order.shape[0]


POLICIES = {
    "camr": Policy(
        "frames whose keys match the chunk's queries best, the paper's content-aware routing",
        lambda pool: pool.similarity(),
    ),
    "spread": Policy(
        "as camr, but every chunk's best frame before any chunk's second",
        lambda pool: _spread(pool.similarity(), pool),
    ),
    "attended": Policy(
        "frames that would get most of the chunk's attention, judged by parts; spread over chunks",
        lambda pool: _spread(pool.attention(), pool),
        by_parts=True,
    ),
    "random": Policy("frames drawn independently of their content, as a baseline", _blind),
    "prompt": Policy(
        "frames whose keys match the prompt best, as in MemFlow",
        lambda pool: pool.similarity(),
        by_prompt=True,
    ),
    "alike": Policy(
        "frames most like the newest one before the chunk, as in LongLive-RAG",
        lambda pool: pool.resemblance(),
    ),
    "sink": Policy("the film's first frames", _first, reaches_all=False, first_only=True),
    "none": Policy("no frames", None, reaches_all=False),
}
