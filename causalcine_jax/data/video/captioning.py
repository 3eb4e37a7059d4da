"""The stage that gives every window its prompts: from captions beside the video, or a captioner."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from causalcine_jax.clock import FPS
from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.captioner import CAPTIONER_FAILED, Captioner, Request
from causalcine_jax.data.video.captions import Captions, from_row, to_row
from causalcine_jax.data.video.frames import Clock
from causalcine_jax.data.video.frames import read as read_frames
from causalcine_jax.data.video.manifest import Manifest, Row, content_id
from causalcine_jax.data.video.windows import Piece, Window
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.story import prompt_of

SEEN = 3  # pictures of a shot that a captioner gets
SEEN_HEIGHT = 448  # pixels at most


@dataclass(frozen=True)
class SourceVideo:
    """A video that can be read.

    name      of the file within the folder
    row       of probe.py
    captions  those beside it, or why they cannot be used; None if there are none
    scan      of scan.py; empty before it is scanned
    licence   as the files beside it say, or else the request
    told      its source, as they say; empty if it is a source of its own
    """

    file: Path
    name: str
    row: Row
    captions: Captions | Reason | None
    scan: Row
    licence: str = ""
    told: str = ""

    @property
    def sha256(self) -> str:
        return self.row["sha256"]

    @property
    def clock(self) -> Clock:
        return Clock.from_row(self.scan["clock"])

    @property
    def source(self) -> str:
        """The film that it is from, which is never split."""
        return self.told or self.sha256


@dataclass(frozen=True)
class Film:
    """A window with what it shows: one caption per shot."""

    video: SourceVideo
    window: Window
    captions: Captions = Captions()

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(prompt_of(self.captions.whole, shot) for shot in self.captions.shots)

    def pictures(
        self, places: Sequence[float], height: int, width: int
    ) -> Iterator[list[np.ndarray]]:
        """Yields frames of every shot: those at `places`, fractions of it."""
        for piece in self.window.pieces:
            at = [int(piece.first + place * (piece.stop - piece.first)) for place in places]
            ranges = [(index, index + 1) for index in at]
            yield list(read_frames(self.video.file, self.video.clock, ranges, height, width))


def captioned(
    films: Sequence[Film],
    captioner: Captioner | None,
    captioner_name: str,
    manifest: Manifest,
    size: tuple[int, int],
    images: int | None = None,
) -> Iterator[tuple[Film, Reason | None]]:
    """Yields every film with captions, or with the reason why it has none; in any order.

    Args:
      films: without captions.
      captioner: asked about those that have none beside their video.
      captioner_name: tells one captioner from another.
      manifest: its earlier answers, to which new ones are added. Failures are not: their windows
        are asked about again at the next run.
      size: height and width of the model's films.
      images: that the captioner gets of a window, at most (CaptionerOptions).
    """
    asked: dict[str, Film] = {}
    for film in films:
        told = film.video.captions
        if isinstance(told, Captions):
            shots = _of_window(told, film)
            if shots is None:
                yield film, _unfit(told, film)
            else:
                yield replace(film, captions=replace(told, shots=shots, cuts=None)), None
        elif captioner is None:
            yield film, told or ("no captions", "nothing beside the video, and no captioner")
        else:
            row_id = content_id("captions", captioner_name, film.window.id)
            row = manifest.get(row_id)
            if row is None:
                asked[row_id] = film
            else:
                yield replace(film, captions=from_row(row)), None
    if captioner is None or not asked:
        return
    unread: dict[str, Reason] = {}

    def requests() -> Iterator[Request]:
        for row_id, film in list(asked.items()):
            try:
                yield _request(row_id, film, size, images)
            except (UsageError, DataError) as error:
                unread[row_id] = "unreadable", str(error)

    for row_id, answer in captioner(requests()):
        film = asked.pop(row_id)
        if isinstance(answer, Captions):
            manifest.add({"id": row_id, **to_row(answer)})
            yield replace(film, captions=answer), None
        else:
            yield film, answer
    ended = CAPTIONER_FAILED, "the captioner ended before it was asked"
    for row_id, film in asked.items():
        yield film, unread.get(row_id, ended)


def _of_window(told: Captions, film: Film) -> tuple[str, ...] | None:
    """The captions of a window's shots, from those of its video; None if they do not fit."""
    scan = film.video.scan
    pieces = film.window.pieces
    if told.cuts is not None and told.shots:
        return tuple(told.at(piece.first / FPS, piece.stop / FPS, scan["pace"]) for piece in pieces)
    shots = told.of_shots(len(scan["shots"]))
    return None if shots is None else tuple(shots[piece.shot] for piece in pieces)


def _unfit(told: Captions, film: Film) -> Reason:
    return "captions do not fit", (
        f"{len(told.shots)} shots are described, {len(film.video.scan['shots'])} were found, and "
        "nothing says where the described ones begin"
    )


def _request(row_id: str, film: Film, size: tuple[int, int], images: int | None) -> Request:
    height = min(size[0], SEEN_HEIGHT)
    width = round(size[1] * height / size[0])
    begins = film.video.scan["begins"]
    seconds = lambda piece: (begins + piece.first / FPS, begins + piece.stop / FPS)
    shots: tuple[Piece, ...] = film.window.pieces
    each = SEEN if images is None else max(1, min(SEEN, images // len(shots)))
    places = [(place + 0.5) / each for place in range(each)]
    pictures = [[jpeg(image) for image in shot] for shot in film.pictures(places, height, width)]
    return Request(row_id, film.video.file, tuple(map(seconds, shots)), pictures)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def prompt_reason(film: Film, tokenizer: Tokenizer, text_len: int) -> Reason | None:
    """Why a film's prompts cannot be used, if so."""
    for number, prompt in enumerate(film.prompts, start=1):
        if not prompt:
            return "no captions", f"shot {number} of the window has no caption"
        count = tokenizer.count(prompt)
        if count > text_len:
            return "long caption", (
                f"shot {number} of the window has {count} tokens, the model reads {text_len} "
                "(the whole's caption and one end token included)"
            )
    return None
