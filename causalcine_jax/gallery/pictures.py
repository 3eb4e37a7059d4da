"""A film's still pictures in a gallery: its poster, and the frames that memory retrieved."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from causalcine_jax.errors import DataError
from causalcine_jax.film.chunk import frame_of_latent
from causalcine_jax.gallery.films import GalleryFilm
from causalcine_jax.render.colour import ToRGB
from causalcine_jax.render.mp4 import decoded
from causalcine_jax.utils.atomic_file import atomic_file

POSTER_AT = 0.5  # of the first shot
POSTER_WIDTH, THUMB_WIDTH = 640, 96
COLUMNS = 16  # of the sheet of retrieved frames
MOST_RETRIEVED = 1600  # on the sheet: WebP pictures are at most 16,383 pixels high


@dataclass(frozen=True)
class Stills:
    """What was drawn of a film.

    width, height  of the video in pixels
    retrieved      latent frames on the sheet, in its order; those left out are not shown
    """

    width: int
    height: int
    frames: int
    fps: float
    retrieved: tuple[int, ...]
    thumb: tuple[int, int]


def draw_stills(film: GalleryFilm, poster: Path, sheet: Path) -> Stills:
    """Decodes the film once; writes its poster and, where frames were retrieved, their sheet.

    Raises:
      DataError: the film cannot be decoded or a picture cannot be written.
    """
    wanted = {frame_of_latent(latent): latent for latent in film.latent_frames[:MOST_RETRIEVED]}
    first_shot = film.resolved.shots[0].frames if film.resolved else 1
    shown, to_rgb = int(POSTER_AT * first_shot), ToRGB()
    thumbs: dict[int, bytes] = {}
    cover, frames, fps, thumb, begun = None, 0, 0.0, (THUMB_WIDTH, 1), 0.0
    for number, frame in enumerate(decoded(film.path)):
        frames = number + 1
        if number == 0:
            begun = frame.time or 0.0  # a film that was cut out of another begins later
        elif frame.time is not None and frame.time > begun:
            fps = number / (frame.time - begun)
        if number <= shown:
            cover = frame
            thumb = (THUMB_WIDTH, max(1, round(THUMB_WIDTH * frame.height / frame.width)))
        if number in wanted:
            thumbs[wanted[number]] = _small(Image.fromarray(to_rgb(frame)), thumb)
    if cover is None:
        raise DataError(f"{film.path} holds no frames")
    image = Image.fromarray(to_rgb(cover))
    image.thumbnail((POSTER_WIDTH, POSTER_WIDTH), Image.Resampling.LANCZOS)
    _save(image, poster)
    if thumbs:
        _save(_sheet(thumbs, thumb), sheet)
    return Stills(cover.width, cover.height, frames, fps or 1.0, tuple(sorted(thumbs)), thumb)


def _small(image: Image.Image, size: tuple[int, int]) -> bytes:
    """Compressed, because a long film retrieves a thousand frames."""
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=90)
    return file.getvalue()


def _sheet(thumbs: dict[int, bytes], size: tuple[int, int]) -> Image.Image:
    rows = -(-len(thumbs) // COLUMNS)
    sheet = Image.new("RGB", (min(len(thumbs), COLUMNS) * size[0], rows * size[1]))
    for place, latent in enumerate(sorted(thumbs)):
        at = place % COLUMNS * size[0], place // COLUMNS * size[1]
        sheet.paste(Image.open(io.BytesIO(thumbs[latent])), at)
    return sheet


def _save(image: Image.Image, path: Path) -> None:
    with atomic_file(path) as partial:
        image.save(partial, format="WEBP", quality=86, method=4)
