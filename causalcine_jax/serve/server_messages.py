"""The messages that a server sends, by type."""

from typing import Annotated, Literal

from pydantic import Field

from causalcine_jax.serve.parts import (
    ChunkInfo,
    FromServer,
    Limits,
    MadeShot,
    ModelInfo,
    QueuedShot,
    TakeInfo,
)

Status = Literal["making", "paused", "starved", "ahead", "limit"]
OVER = ("starved", "limit")  # all that was asked for and fits is made
EndReason = Literal["stopped", "idle", "lifetime", "replaced", "server", "failed"]
ErrorCode = Literal[
    "bad_message", "too_many", "not_started", "read_only", "unknown_shot",
    "unknown_take", "refused", "full", "limit", "bad_token",
]  # fmt: skip


class SessionQueued(FromServer):
    """The server is full: the session begins when another ends."""

    type: Literal["session.queued"] = "session.queued"
    position: int
    """1 is next."""
    reason: str


class SessionStarted(FromServer):
    """The session exists; session.state follows."""

    type: Literal["session.started"] = "session.started"
    event_id: str | None = None
    session_id: str
    resume_token: str | None
    """Opens this session again; a secret. null for those who watch."""
    watch_token: str
    """Lets others watch with session.watch."""
    directs: bool
    """False for those who watch."""
    resumed: bool
    seed: int
    model: ModelInfo
    limits: Limits
    pace: str
    on_empty: str


class SessionState(FromServer):
    """Everything that a page needs to draw itself anew."""

    type: Literal["session.state"] = "session.state"
    event_id: str | None = None
    status: str
    global_caption: str
    seed: int
    take_id: str
    takes: tuple[TakeInfo, ...]
    shots: tuple[MadeShot, ...]
    """Of the current take, those that have begun."""
    chunks: tuple[ChunkInfo, ...]
    """Of the current take. A chunk's media is at /v1/sessions/{id}/takes/{take}/chunks/{chunk}."""
    beginning: QueuedShot | None = None
    """The shot whose first chunk is being made: neither queued nor among `shots`."""
    queue: tuple[QueuedShot, ...]


class SessionStatus(FromServer):
    """What the session does now."""

    type: Literal["session.status"] = "session.status"
    status: Status
    """starved: no shot is queued. ahead: of playback, by what the next chunk needs.
    limit: the take is as long as limits.film_s allows; shots can be filmed again, or branched."""
    event_id: str | None = None


class SessionMetrics(FromServer):
    """How it goes, about once a second."""

    type: Literal["session.metrics"] = "session.metrics"
    fps: float
    """Video frames per second that the last chunks were made with, waiting included."""
    made_s: float
    """Seconds of film made."""
    lead_s: float
    """made_s less the playback position."""
    next_lead_s: float = 0.0
    """lead_s at which the next chunk begins: an order is seen so long after that, or later."""
    margin_s: float = 0.0
    """The part of next_lead_s in which media reach the player; raised when they come too late."""
    turns_waiting: int
    """Sessions that use the device now or wait for it, with this one if it makes something."""
    viewers: int


class SessionDone(FromServer):
    """The session ended; the socket closes."""

    type: Literal["session.done"] = "session.done"
    reason: EndReason
    take_id: str | None = None
    message: str = ""


class ShotReceived(FromServer):
    """First receipt: the shot is queued."""

    type: Literal["shot.received"] = "shot.received"
    event_id: str | None = None
    shot_id: str
    chunks: int
    seconds: float
    position: int
    """Its place in the queue; 1 is next."""


class ShotChanged(FromServer):
    """The shot that is being filmed has another length now."""

    type: Literal["shot.changed"] = "shot.changed"
    event_id: str | None = None
    shot_id: str
    take_id: str
    asked_chunks: int


class ShotApplied(FromServer):
    """Second receipt: the shot has begun, here."""

    type: Literal["shot.applied"] = "shot.applied"
    event_id: str | None = None
    """Of the message that queued the shot, or asked for the retake."""
    shot_id: str
    take_id: str
    chunk: int
    frame: int
    time_s: float


class Queue(FromServer):
    """The shots to come, after every change."""

    type: Literal["queue"] = "queue"
    event_id: str | None = None
    beginning: QueuedShot | None = None
    """The shot whose first chunk is being made; its media.chunk ends that."""
    shots: tuple[QueuedShot, ...]


class TakeBegun(FromServer):
    """The film goes on in this take from first_chunk; what was after it is no longer shown."""

    type: Literal["take.begun"] = "take.begun"
    event_id: str | None = None
    take: TakeInfo
    next_chunk: int
    """The chunk that is made next."""
    frame: int
    """Its first video frame."""
    time_s: float
    shots: tuple[MadeShot, ...]
    """The take's shots so far."""
    replay: bool = False
    """Chunks before next_chunk differ from what was shown: get them by HTTP."""


class MediaInit(FromServer):
    """The mp4 header, before the first chunk; the next binary message is it."""

    type: Literal["media.init"] = "media.init"
    mime: str
    """For MediaSource.addSourceBuffer."""
    width: int
    """Of the video in pixels, which may be larger than the model's frames."""
    height: int
    fps: int
    bytes: int


class MediaChunk(ChunkInfo):
    """A chunk was made; the next binary message is its media."""

    type: Literal["media.chunk"] = "media.chunk"


class MediaDropped(FromServer):
    """This client was too slow: these chunks were not sent. Get them by HTTP."""

    type: Literal["media.dropped"] = "media.dropped"
    take_id: str
    chunks: tuple[int, ...]


class Error(FromServer):
    """A message was refused; nothing else changed. A session that fails ends with session.done."""

    type: Literal["error"] = "error"
    event_id: str | None = None
    code: ErrorCode
    message: str
    field: str | None = None
    """The field at fault, such as shot.caption; `type` where it is the order itself."""
    retryable: bool = False
    retry_after_s: float | None = None


class Pong(FromServer):
    type: Literal["pong"] = "pong"
    event_id: str | None = None


ServerMessage = Annotated[
    SessionQueued | SessionStarted | SessionState | SessionStatus | SessionMetrics | SessionDone
    | ShotReceived | ShotChanged | ShotApplied | Queue | TakeBegun | MediaInit | MediaChunk
    | MediaDropped | Error | Pong,
    Field(discriminator="type"),
]  # fmt: skip
