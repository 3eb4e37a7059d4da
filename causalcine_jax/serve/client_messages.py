"""The messages that a client sends, by type."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from causalcine_jax.serve.parts import (
    MOST_QUEUED,
    Caption,
    Chunks,
    FromClient,
    GlobalCaption,
    Id,
    NewShot,
    Seconds,
    Secret,
    Seed,
)


class ClientRequest(FromClient):
    event_id: Id | None = None
    """The client's own name for this message, repeated in what answers it."""


class SessionStart(ClientRequest):
    """Begins a session: a new film, or with resume_token one that exists."""

    type: Literal["session.start"]
    global_caption: GlobalCaption = ""
    """What holds for all shots, such as who plays."""
    story: dict[str, Any] | None = None
    """A story (schema causalcine/story@1), in place of global_caption; its shots are queued."""
    record: dict[str, Any] | None = None
    """A film.json (schema causalcine/film@1), whose story is filmed again; the rest is not read."""
    resume_token: Secret | None = None
    """From session.started: goes on with that session's film. Only pace and on_empty go with it."""
    seed: Seed | None = None
    """Of the film's noise; the story's, or a random one, if left out."""
    pace: Literal["playback", "free"] | None = None
    """playback: make a chunk just before it is played. free: as fast as the device can.
    Left out: playback, or what a resumed film has."""
    on_empty: Literal["wait", "hold"] | None = None
    """When no shot is queued: wait for one, or go on with the last shot.
    Left out: wait, or what a resumed film has."""

    @property
    def choices(self) -> dict[str, str]:
        """What is given of pace and on_empty."""
        told = {"pace": self.pace, "on_empty": self.on_empty}
        return {name: value for name, value in told.items() if value is not None}

    @model_validator(mode="after")
    def one_source(self):
        told = [n for n in ("story", "record", "resume_token") if getattr(self, n) is not None]
        if len(told) > 1:
            raise ValueError(f"give one of story, record and resume_token, not {', '.join(told)}")
        if told and self.global_caption:
            raise ValueError(f"global_caption is part of the {told[0]}: leave it out")
        if self.resume_token and self.seed is not None:
            raise ValueError("a resumed film keeps its seed: leave it out")
        return self


class SessionWatch(ClientRequest):
    """Begins to watch another client's session, without directing it."""

    type: Literal["session.watch"]
    watch_token: Secret


class SessionPause(ClientRequest):
    """Makes no more chunks until session.resume."""

    type: Literal["session.pause"]


class SessionResume(ClientRequest):
    """Goes on after session.pause."""

    type: Literal["session.resume"]


class SessionStop(ClientRequest):
    """Ends the session. Its film is kept; the resume token opens it again."""

    type: Literal["session.stop"]


class ShotAppend(ClientRequest):
    """Queues a shot: after all others, or before the queued shot `before`."""

    type: Literal["shot.append"]
    shot: NewShot
    before: Id | None = None


class ShotUpdate(ClientRequest):
    """Changes a queued shot, or the length of the one that is being filmed."""

    type: Literal["shot.update"]
    shot_id: Id
    caption: Caption | None = None
    """Refused for a shot that has begun: retake it."""
    seconds: Seconds | None = None
    chunks: Chunks | None = None
    """A shot being filmed that has so many chunks already ends with the current one."""

    @model_validator(mode="after")
    def something(self):
        if self.seconds is not None and self.chunks is not None:
            raise ValueError("give seconds or chunks, not both")
        if (self.caption, self.seconds, self.chunks) == (None, None, None):
            raise ValueError("give a caption, seconds or chunks to change")
        return self


class ShotReorder(ClientRequest):
    """Puts the queued shots into another order."""

    type: Literal["shot.reorder"]
    shot_ids: Annotated[tuple[Id, ...], Field(strict=False, max_length=MOST_QUEUED)]
    """All queued shots, in their new order."""


class ShotRemove(ClientRequest):
    """Removes a queued shot."""

    type: Literal["shot.remove"]
    shot_id: Id


class ShotCutNow(ClientRequest):
    """Cuts at the next chunk: to `shot`, or to the first queued shot."""

    type: Literal["shot.cut_now"]
    shot: NewShot | None = None


class Retake(ClientRequest):
    """Films a shot that has begun again, as a new take; the shots after it are queued again."""

    type: Literal["retake"]
    shot_id: Id
    seed: Seed | None = None
    """Of the shot's noise. If seed and caption are left out: the next seed."""
    caption: Caption | None = None


class Branch(ClientRequest):
    """Starts a new take at the beginning of a shot, with other shots from there on."""

    type: Literal["branch"]
    shot_id: Id


class TakeOpen(ClientRequest):
    """Goes on with another take of this session, at its end."""

    type: Literal["take.open"]
    take_id: Id


class Snapshot(ClientRequest):
    """Asks for session.state."""

    type: Literal["snapshot"]


class PlaybackReport(FromClient):
    """Where the client's player is; about once a second, and after a seek."""

    type: Literal["playback.report"]
    position_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    buffered_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds of film that the player holds after its position."""
    playing: bool = False
    """Its clock runs: the position grows until the next report."""


class Ping(ClientRequest):
    """Asks for a pong."""

    type: Literal["ping"]


ClientMessage = Annotated[
    SessionStart | SessionWatch | SessionPause | SessionResume | SessionStop | ShotAppend
    | ShotUpdate | ShotReorder | ShotRemove | ShotCutNow | Retake | Branch | TakeOpen | Snapshot
    | PlaybackReport | Ping,
    Field(discriminator="type"),
]  # fmt: skip
