"""How much longer a take may get: the chunk that reaches limits.film_s is its last."""

import math

from causalcine_jax.serve.parts import ModelInfo
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.session import Session


def most_chunks(film_s: float, model: ModelInfo) -> int:
    """Chunks of a take that is as long as it may be."""
    after_first = film_s * model.fps - model.first_chunk_frames
    return 1 + max(0, math.ceil(after_first / model.chunk_frames))


def chunks_left(session: Session, cut: bool = False) -> int:
    """Chunks that fit beside all that are made or asked for; below 0 if not even these fit.

    cut  whether the shot that is being filmed ends now
    """
    end = session.seen.next_chunk
    if not (cut or session.cut):
        for last in session.seen.resolved.shots[-1:]:
            end = max(end, last.first_chunk + session.project.take.shots[last.id].chunks)
    begun = session.project.beginning  # taken from the queue, and not seen in the film yet
    if begun and begun.shot_id not in {shot.id for shot in session.seen.resolved.shots}:
        end += 1 if cut or session.cut else begun.chunks
    queued = sum(shot.chunks for shot in session.project.queue)
    return most_chunks(session.resources.limits.film_s, session.model) - end - queued


def filmed_shot(session: Session) -> tuple[str | None, int]:
    """The id of the shot that is being filmed, and its chunks; None before the first shot.

    A shot whose first chunk is being made is that shot already, and has one chunk.
    """
    shots, begun = session.seen.resolved.shots, session.project.beginning
    if begun and begun.shot_id not in {shot.id for shot in shots}:
        return begun.shot_id, 1
    if not shots:
        return None, 0
    return shots[-1].id, session.seen.next_chunk - shots[-1].first_chunk


def check_fits(chunks: int, left: int, session: Session, field: str) -> None:
    """`Refused` if a shot of so many chunks is longer than what is left, which it says."""
    if chunks <= left:
        return
    most = f"of the {session.resources.limits.film_s:g} s that a film may have"
    chunk_s = session.model.chunk_frames / session.model.fps
    told = f"{chunks * chunk_s:g} s, and {left * chunk_s:g} s are left {most}"
    if left <= 0:
        told = f"nothing is left {most}: retake or branch a shot, or begin another film"
    raise Refused("limit", told, field)
