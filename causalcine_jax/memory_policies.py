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

    similarity    () -> [F]: of each frame's keys to the chunk's queries, summed over heads (Eq. 7)
    time          [F], each frame's index in the film; negative where the slot is empty
    chunk         the chunk's index, []
    chunk_frames  C, latent frames of a chunk
    """

    similarity: "Callable[[], Array]"
    time: "Array"
    chunk: "Array"
    chunk_frames: int


@dataclass(frozen=True)
class Policy:
    """How memory is chosen.

    retrieves    what it retrieves, in words
    score        a score of each frame, [F]: the frames of the highest scores are retrieved. It must
                 pass no gradient: top-k is a choice, learned through attention alone. None: no
                 frame is retrieved
    reaches_all  whether it may retrieve any frame, so that every eviction loses some
    """

    retrieves: str
    score: "Callable[[Candidates], Array] | None"
    reaches_all: bool = True


def _first(frames: Candidates) -> "Array":
    return -frames.time.astype("float32")


def _blind(frames: Candidates) -> "Array":
    """Pseudo-random scores in [0, 1) that depend only on frame and chunk.

    All layers, films and passes therefore draw the same frames.
    """
    import jax.numpy as jnp

    mixed = frames.time.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) ^ frames.chunk.astype(
        jnp.uint32
    ) * jnp.uint32(0x85EBCA77)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return ((mixed ^ (mixed >> 16)) >> 8).astype(jnp.float32) / 2**24


def _spread(frames: Candidates) -> "Array":
    """Ranks by similarity, but every chunk's best frame comes before any chunk's second.

    Frames next to each other in a shot look alike.
    """
    import jax.numpy as jnp

    order = jnp.argsort(jnp.argsort(frames.similarity())).astype(jnp.float32)
    chunk = frames.time // frames.chunk_frames
    same_chunk = chunk[:, None] == chunk[None, :]
    better = jnp.sum(
        same_chunk & (order[None, :] > order[:, None]), axis=-1
    )  # frames of its chunk that come before it
    return order - better * order.shape[0]


POLICIES = {
    "camr": Policy(
        "frames whose keys match the chunk's queries best, the paper's content-aware routing",
        lambda frames: frames.similarity(),
    ),
    "spread": Policy("as camr, but every chunk's best frame before any chunk's second", _spread),
    "random": Policy("frames drawn independently of their content, as a baseline", _blind),
    "sink": Policy("the film's first frames", _first, reaches_all=False),
    "none": Policy("no frames", None, reaches_all=False),
}
