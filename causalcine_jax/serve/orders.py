"""What each message of a directing client does to its session.

Orders on queued shots act at once. A retake, a branch and another take wait for the chunk that is
being made: they become one of the session's turns.
"""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from causalcine_jax.errors import UsageError
from causalcine_jax.serve import client_messages as messages
from causalcine_jax.serve import shot_queue
from causalcine_jax.serve.parts import NewShot, QueuedShot
from causalcine_jax.serve.playback import DRY
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.reopen import go_to_take, reopened
from causalcine_jax.serve.room import check_fits, chunks_left, filmed_shot
from causalcine_jax.serve.server_messages import ShotReceived, TakeBegun
from causalcine_jax.serve.session import Session
from causalcine_jax.serve.timeline import made_shots, unused_seed
from causalcine_jax.serve.turns import rewound
from causalcine_jax.story import Shot, prompt_of

MOST_TURNS = 8  # that wait in a session


def order(session: Session, message: Any) -> None:
    """Does what a directing client's message says. `Refused` says why not."""
    ORDERS[type(message)](session, message)


def append(session: Session, message: messages.ShotAppend) -> None:
    _receive(session, message.shot, message.event_id, message.before, chunks_left(session))


def cut_now(session: Session, message: messages.ShotCutNow) -> None:
    queue = session.project.queue
    if message.shot is not None:
        before = queue[0].shot_id if queue else None
        _receive(session, message.shot, message.event_id, before, chunks_left(session, cut=True))
    elif not queue:
        raise Refused("refused", "no shot is queued to cut to: give one", "shot")
    session.cut = True
    if message.shot is None:
        session.requeue(queue, message.event_id)


def update(session: Session, message: messages.ShotUpdate) -> None:
    project, chunks = session.project, None
    filmed, made = filmed_shot(session)
    if message.seconds is not None or message.chunks is not None:
        chunks = shot_queue.chunks_of(message.seconds, message.chunks, session.model)
        asked = {shot.shot_id: shot.chunks for shot in project.queue}
        if filmed:  # of a shot that is cut the rest is not counted
            asked[filmed] = made if session.cut else project.take.shots[filmed].chunks
        if chunks > (now := asked.get(message.shot_id, chunks)):
            field = "seconds" if message.chunks is None else "chunks"
            check_fits(chunks, chunks_left(session) + now, session, field)
    shots = project.queue
    if message.shot_id == filmed and chunks is not None and message.caption is None:
        told = project.resize(message.shot_id, chunks, session.model)
        session.tell(told.model_copy(update={"event_id": message.event_id}))
    else:
        if message.caption is not None:
            check_caption(session, message.caption, "caption", message.shot_id)
        shots = shot_queue.changed(shots, message.shot_id, message.caption, chunks, session.model)
    session.requeue(shots, message.event_id)


def reorder(session: Session, message: messages.ShotReorder) -> None:
    session.requeue(shot_queue.reordered(session.project.queue, message.shot_ids), message.event_id)


def remove(session: Session, message: messages.ShotRemove) -> None:
    shots = shot_queue.without(session.project.queue, message.shot_id)
    session.cut = session.cut and bool(shots)  # else nothing is left to cut to
    session.requeue(shots, message.event_id)


def pause(session: Session, message: messages.SessionPause | messages.SessionResume) -> None:
    session.paused = isinstance(message, messages.SessionPause)
    session.say_status(message.event_id)
    session.change()


def stop(session: Session, message: messages.SessionStop) -> None:
    session.stop("stopped")


def report(session: Session, message: messages.PlaybackReport) -> None:
    stands = message.playing and message.buffered_s < DRY
    late = session.publisher.late(message.position_s) if stands else 0.0
    session.playback.report(message.position_s, message.playing, late)
    session.change()


def retake(session: Session, message: messages.Retake) -> None:
    _check_begun(session, message.shot_id)
    if message.caption is not None:
        check_caption(session, message.caption, "caption", message.shot_id)

    def again(shots: tuple[QueuedShot, ...]) -> tuple[QueuedShot, ...]:
        old = shots[0]
        seed = old.seed if message.seed is None else message.seed
        if message.seed is None and message.caption is None:
            seed = unused_seed(session.project, old)
        new = {"caption": message.caption or old.caption, "seed": seed}
        return (old.model_copy(update=new), *shots[1:])

    _new_take(session, message, "retake", again)


def branch(session: Session, message: messages.Branch) -> None:
    _check_begun(session, message.shot_id)
    _new_take(session, message, "branch", lambda shots: ())


def open_take(session: Session, message: messages.TakeOpen) -> None:
    project = session.project
    project.known(message.take_id)

    async def turn() -> None:
        await session.close_director()  # makes room for the other's history
        director = await reopened(session.resources, project, message.take_id)
        # All at once: until then, orders are about the take that clients see.
        go_to_take(project, message.take_id, director)
        session.director, session.cut = director, False
        session.look()
        session.requeue(project.queue)
        _say_begun(session, message.event_id, replay=True)

    _queue_turn(session, message.event_id, turn)


def _queue_turn(
    session: Session, event_id: str | None, turn: Callable[[], Awaitable[None]]
) -> None:
    if len(session.turns) >= MOST_TURNS:
        told = f"at most {MOST_TURNS} retakes, branches and takes wait"
        raise Refused("too_many", told, "type", retryable=True)
    session.turns.append((event_id, turn))
    session.change()


def again_from(session: Session, number: int) -> tuple[QueuedShot, ...]:
    """The film's shots from that one on, as they were asked for, to be queued again."""
    asked = session.project.take.shots
    return tuple(asked[shot.id] for shot in session.seen.resolved.shots[number:])


def check_caption(
    session: Session, caption: str, field: str, instead_of: str | None = None
) -> None:
    """`Refused` if the model cannot read the shot's prompt, or not beside the film's others.

    instead_of  the shot that gets this caption
    """
    project = session.project
    begun = (project.take.shots[shot.id] for shot in session.seen.resolved.shots)
    every = (*begun, project.beginning, *project.queue)
    others = {shot.shot_id: shot for shot in every if shot and shot.shot_id != instead_of}
    shots = [Shot(shot.caption, chunks=shot.chunks, id=id) for id, shot in others.items()]
    this = Shot(caption, chunks=1, id=instead_of or "new")
    story = replace(project.story, shots=(*shots, this))
    try:
        prompt = prompt_of(story.global_caption, caption)
        session.resources.engine.check([("the shot", prompt)], story)
    except UsageError as error:
        raise Refused("refused", str(error), field) from None


def _receive(
    session: Session, shot: NewShot, event_id: str | None, before: str | None, left: int
) -> None:
    """Queues a shot. left: chunks of the film that it may take."""
    project = session.project
    check_caption(session, shot.caption, "shot.caption")
    length = shot_queue.chunks_of(shot.seconds, shot.chunks, session.model)
    field = "shot.seconds" if shot.chunks is None else "shot.chunks"
    check_fits(length, left, session, field)
    new = shot_queue.queued(project.new_shot_id(), shot, session.model)
    shots = shot_queue.with_shot(project.queue, new, before)
    session.publisher.events[new.shot_id] = event_id
    session.tell_director(
        ShotReceived(
            event_id=event_id,
            shot_id=new.shot_id,
            chunks=new.chunks,
            seconds=new.seconds,
            position=shots.index(new) + 1,
        )
    )
    session.requeue(shots)


def _check_begun(session: Session, shot_id: str) -> None:
    """`Refused` if no shot of that id has begun."""
    ids = [shot.id for shot in session.seen.resolved.shots]
    if shot_id not in ids:
        known = ", ".join(ids) or "none has"
        raise Refused("unknown_shot", f"shot {shot_id} has not begun here: {known}", "shot_id")


Requeued = Callable[[tuple[QueuedShot, ...]], tuple[QueuedShot, ...]]


def _new_take(
    session: Session, message: messages.Retake | messages.Branch, why: str, requeued: Requeued
) -> None:
    """A take that leaves the current one where the shot begins.

    requeued  which of the shots from there on are queued again
    """
    project, limits = session.project, session.resources.limits

    def check_room() -> None:
        if len(project.takes) >= limits.takes:
            raise Refused("limit", f"a session has at most {limits.takes} takes", "type")

    check_room()

    async def turn() -> None:
        check_room()  # turns before it may have begun takes, or gone back
        _check_begun(session, message.shot_id)
        begun = session.seen.resolved.shots
        number = [shot.id for shot in begun].index(message.shot_id)
        shots, first = again_from(session, number), begun[number].first_chunk
        take_id = project.new_take_id()
        folder = project.folder_of(take_id)
        take_turn = functools.partial(session.resources.worker.turn, project.session_id)
        # No name is kept for the director before: its history is freed with it.
        back = functools.partial(rewound, session.director, message.shot_id, folder)
        try:
            session.director = await take_turn(back)
        except UsageError as error:
            raise Refused("refused", str(error), "shot_id") from None
        finally:
            del back
        while session.director.next_chunk < first:  # one a turn, so that others need not wait
            await take_turn(functools.partial(next, session.director))
        session.look()
        project.begin_take(take_id, why, first, message.shot_id)
        session.cut = False
        project.queue = (*requeued(shots), *project.queue)
        project.save()
        if why == "retake":
            session.publisher.events[message.shot_id] = message.event_id
        _say_begun(session, message.event_id)
        session.requeue(project.queue)

    _queue_turn(session, message.event_id, turn)


def _say_begun(session: Session, event_id: str | None, replay: bool = False) -> None:
    chunk = session.seen.next_chunk
    time_s = session.time_of(chunk)
    session.playback.jump(time_s)
    session.tell(
        TakeBegun(
            event_id=event_id,
            take=session.project.info(session.project.take_id),
            next_chunk=chunk,
            frame=round(time_s * session.model.fps),
            time_s=time_s,
            shots=made_shots(session.project, session.project.take_id),
            replay=replay,
        )
    )


ORDERS: dict[type, Callable[[Session, Any], None]] = {
    messages.ShotAppend: append,
    messages.ShotCutNow: cut_now,
    messages.ShotUpdate: update,
    messages.ShotReorder: reorder,
    messages.ShotRemove: remove,
    messages.SessionPause: pause,
    messages.SessionResume: pause,
    messages.SessionStop: stop,
    messages.PlaybackReport: report,
    messages.Retake: retake,
    messages.Branch: branch,
    messages.TakeOpen: open_take,
}
