"""The shots that have not begun, as a tuple; every change is a function that returns another."""

from causalcine_jax.serve.parts import MOST_SHOTS, ModelInfo, NewShot, QueuedShot
from causalcine_jax.serve.protocol import Refused

DEFAULT_CHUNKS = 4
Shots = tuple[QueuedShot, ...]


def chunks_of(seconds: float | None, chunks: int | None, model: ModelInfo) -> int:
    """A length in whole chunks, at least one."""
    if chunks is not None:
        return chunks
    if seconds is None:
        return DEFAULT_CHUNKS
    return max(1, round(seconds * model.fps / model.chunk_frames))


def queued(shot_id: str, shot: NewShot, model: ModelInfo) -> QueuedShot:
    chunks = chunks_of(shot.seconds, shot.chunks, model)
    told = QueuedShot(
        shot_id=shot_id, caption=shot.caption, chunks=chunks, seconds=0.0, seed=shot.seed
    )
    return longer(told, chunks, model)


def longer(shot: QueuedShot, chunks: int, model: ModelInfo) -> QueuedShot:
    """The shot with another length."""
    seconds = chunks * model.chunk_frames / model.fps
    return shot.model_copy(update={"chunks": chunks, "seconds": seconds})


def place_of(shots: Shots, shot_id: str, field: str = "shot_id") -> int:
    """The place of a queued shot, from 0. `Refused` if it is not queued."""
    ids = [shot.shot_id for shot in shots]
    if shot_id not in ids:
        raise Refused(
            "unknown_shot", f"no shot {shot_id} is queued: {', '.join(ids) or 'none is'}", field
        )
    return ids.index(shot_id)


def with_shot(shots: Shots, shot: QueuedShot, before: str | None = None) -> Shots:
    if len(shots) >= MOST_SHOTS:
        raise Refused("limit", f"at most {MOST_SHOTS} shots are queued", "shot", retryable=True)
    at = len(shots) if before is None else place_of(shots, before, "before")
    return (*shots[:at], shot, *shots[at:])


def without(shots: Shots, shot_id: str) -> Shots:
    at = place_of(shots, shot_id)
    return (*shots[:at], *shots[at + 1 :])


def reordered(shots: Shots, ids: tuple[str, ...]) -> Shots:
    if sorted(ids) != sorted(shot.shot_id for shot in shots):
        known = ", ".join(shot.shot_id for shot in shots) or "none"
        raise Refused("unknown_shot", f"must name each queued shot once: {known}", "shot_ids")
    return tuple(shots[place_of(shots, each)] for each in ids)


def changed(
    shots: Shots, shot_id: str, caption: str | None, chunks: int | None, model: ModelInfo
) -> Shots:
    at = place_of(shots, shot_id)
    new = longer(shots[at], shots[at].chunks if chunks is None else chunks, model)
    if caption is not None:
        new = new.model_copy(update={"caption": caption})
    return (*shots[:at], new, *shots[at + 1 :])
