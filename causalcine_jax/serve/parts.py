"""Parts of the messages of causalcine.v1: shots, takes, retrieved frames, limits.

Frames and chunks are counted from 0. Times are seconds of film from its beginning; a film's frame
`f` is shown at `f / fps`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.story_schema import LONGEST_SHOT, MAX_SEED

PROTOCOL = "causalcine.v1"
LONGEST_CAPTION = 2_000  # characters
LONGEST_ID = 80
MOST_SHOTS = 64  # queued by a client, and in a story that it sends
MOST_QUEUED = 1024  # with those of the film that a retake queues again


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


GlobalCaption = Annotated[str, Field(max_length=LONGEST_CAPTION), AfterValidator(str.strip)]
Caption = Annotated[GlobalCaption, AfterValidator(_not_empty)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=LONGEST_ID)]
Secret = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=120)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SHOT, allow_inf_nan=False)]
Chunks = Annotated[int, Field(ge=1, le=4_800)]

TAKE_FILES = ("film.mp4", "film.json", "story.yaml", "contact_sheet.png")


class FromClient(BaseModel):
    """What a client sends: unknown fields are refused, types are exact."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class FromServer(BaseModel):
    """What a server sends: unknown fields are ignored, so that a server may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class NewShot(FromClient):
    """A shot to film: one caption and how long it is."""

    caption: Caption
    """What the shot shows; the prompt is the story's global caption followed by it."""
    seconds: Seconds | None = None
    """Its length in seconds, rounded to whole chunks. Neither length: the server's default."""
    chunks: Chunks | None = None
    """Its length in chunks, instead of seconds."""
    seed: Seed | None = None
    """Of the shot's noise; the story's if left out."""

    @model_validator(mode="after")
    def one_length(self):
        if self.seconds is not None and self.chunks is not None:
            raise ValueError("give seconds or chunks, not both")
        return self


class QueuedShot(FromServer):
    """A shot that has not begun."""

    shot_id: str
    caption: str
    chunks: int
    """Its length in chunks."""
    seconds: float
    """Its length in seconds of film."""
    seed: int | None = None


class MadeShot(FromServer):
    """A shot that has begun, on the timeline of a take."""

    shot_id: str
    caption: str
    first_chunk: int
    chunks: int
    """Chunks made so far."""
    first_frame: int
    frames: int
    """Video frames made so far."""
    time_s: float
    """Where it begins."""
    seconds: float
    """Seconds made so far."""
    asked_chunks: int
    """Its length as asked for; it may be cut sooner."""
    seed: int | None = None


class TakeInfo(FromServer):
    """A take: a film from the beginning, which shares its first chunks with its parent."""

    take_id: str
    parent: str | None = None
    """The take that it was made from; null for the first."""
    why: Literal["start", "retake", "branch"]
    shot_id: str | None = None
    """The shot at whose beginning it leaves its parent."""
    first_chunk: int
    """The first chunk that is its own; earlier ones are its parent's."""
    chunks: int
    """Chunks made so far, with the parent's."""
    seconds: float


class Retrieved(FromServer):
    """A past frame that memory routing brought back for a chunk."""

    frame: int
    """A video frame of this take, whose picture stands for the retrieved latent frame."""
    time_s: float
    shot_id: str
    """The shot that it is from."""
    share: float
    """How many of the layers retrieved it, from 0 to 1."""


class ChunkInfo(FromServer):
    """A chunk of the film: where it is, what it cost, what it remembered."""

    take_id: str
    chunk: int
    first_frame: int
    frames: int
    time_s: float
    seconds: float
    shot_id: str
    is_cut: bool
    """A new shot begins here; false for the film's beginning."""
    retrieved: tuple[Retrieved, ...] = ()
    """Most retrieved first."""
    timings: dict[str, float] = {}
    """Seconds spent per stage: denoise, commit, decode, encode, and wait for the device."""
    bytes: int = 0
    """Length of the chunk's media."""


class ModelInfo(FromServer):
    """The model that films."""

    name: str
    width: int
    """Of its frames, in pixels; a size that it cannot make is refused with the nearest."""
    height: int
    fps: int
    chunk_frames: int
    """Video frames of a chunk."""
    first_chunk_frames: int
    """Video frames of the film's first chunk."""
    words: dict[str, Any] | None = None
    """The words that this model knows, by kind; null for a model that reads free text."""
    example: dict[str, Any] | None = None
    """A story (schema causalcine/story@1) that this model can film; null if none is known."""

    @property
    def latent_frames(self) -> int:
        """Latent frames of a chunk."""
        return self.chunk_frames // TEMPORAL_STRIDE


class Limits(FromServer):
    """What a session may ask for."""

    film_s: float
    """Longest film of one take; the chunk that reaches it is the last."""
    queued_shots: int
    idle_s: float
    """A session without a client is closed after so long; its resume token opens it again."""
    lifetime_s: float
    message_bytes: int
    caption_characters: int = LONGEST_CAPTION
    lead_chunks: int
    """Most chunks left to play when the next one begins; fewer if chunks are made fast."""
    takes: int
    pool_bytes: int
    """The session's history of keys and values, reserved while it is open."""
