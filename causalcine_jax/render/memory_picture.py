"""What memory brought back: for every chunk, the shots and older frames that it retrieved.

A bar shows each shot's share of all retrieved frames, over all layers. Below it stand the frames
that most layers retrieved, of each shot as many as its share. Both have the shot's colour, as on
the contact sheet, so a shot that remembers another one shows at a glance.
"""

import io
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.render.typography import (
    FAINT,
    PAPER,
    SOFT,
    TEXT,
    face,
    fit_text,
    font,
    save_png,
    shot_colour,
)
from causalcine_jax.story import ResolvedStory

SHOWN = 5  # retrieved frames per chunk
THUMB_WIDTH = 168
GAP, MARGIN, EDGE = 12, 56, 4
LABEL, ARROW = 92, 32  # widths, of a row's name and between its chunk and what it remembers
BAR, BAR_GAP, CAPTION = 24, 8, 40  # heights
COLUMN_GAP, HEAD = 56, 104
ONE_COLUMN = 10  # more rows than these stand in two columns
MOST_ROWS = 40


class MemoryPicture:
    """Collects one small image per latent frame and each chunk's votes while a film streams."""

    def __init__(self):
        # Compressed: a film of 10,000 shots has more than 60,000 frames.
        self._images: list[bytes] = []
        self._size = (THUMB_WIDTH, 1)
        self._votes: list[Counter] = []
        self._layers = 0

    def add(self, frames: UInt8[np.ndarray, "t h w 3"], retrieved: Int[np.ndarray, "l k"]) -> None:
        """The film's next chunk: its frames, and per layer the latent frames retrieved (or -1)."""
        # A latent frame after the first stands for 4 video frames; the last represents it.
        first = 0 if not self._images else TEMPORAL_STRIDE - 1
        height, width = frames.shape[1:3]
        # At least a row of the picture stays between the coloured edges.
        self._size = THUMB_WIDTH, max(2 * EDGE + 1, round(THUMB_WIDTH * height / width))
        self._images += [_thumb(image, self._size) for image in frames[first::TEMPORAL_STRIDE]]
        self._votes.append(Counter(retrieved[retrieved >= 0].tolist()))
        self._layers = len(retrieved)

    def save(self, path: str | Path, story: ResolvedStory) -> bool:
        """Writes the PNG; where memory was never asked (short films, policy none) returns False."""
        chunks = [index for index, votes in enumerate(self._votes) if votes]
        if not chunks:
            return False
        if len(chunks) > MOST_ROWS:
            chunks = [chunks[round(i)] for i in np.linspace(0, len(chunks) - 1, MOST_ROWS)]
        page = self._draw(story, chunks)
        save_png(path, page)
        return True

    def _draw(self, story: ResolvedStory, chunks: list[int]) -> Image.Image:
        thumb = self._size
        columns = 1 if len(chunks) <= ONE_COLUMN else 2
        rows = -(-len(chunks) // columns)
        row_height = BAR + BAR_GAP + thumb[1] + CAPTION
        column_width = LABEL + THUMB_WIDTH + GAP + ARROW + _bar_width()
        size = (
            2 * MARGIN + columns * (column_width + COLUMN_GAP) - COLUMN_GAP,
            MARGIN + HEAD + rows * row_height + MARGIN - 20,
        )
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, MARGIN - 14), "What the film remembered", TEXT, font(34))
        bar = f"bars: the shots whose frames the {self._layers} layers retrieved, beyond the window"
        below = "below: the frames that most layers retrieved, of each shot as many as its share"
        draw.text((MARGIN, MARGIN + 32), bar, SOFT, font(18))
        draw.text((MARGIN, MARGIN + 56), below, SOFT, font(18))
        for place, chunk in enumerate(chunks):
            x = MARGIN + (place // rows) * (column_width + COLUMN_GAP)
            y = MARGIN + HEAD + (place % rows) * row_height
            self._draw_row(page, story, chunk, x, y)
        return page

    def _draw_row(self, page: Image.Image, story: ResolvedStory, chunk: int, x: int, y: int):
        draw, (_, height) = ImageDraw.Draw(page), self._size
        shot, top = story.shot_of_chunk[chunk], y + BAR + BAR_GAP
        name = fit_text(story.shots[shot].id, font(15), LABEL - 10)
        draw.text((x, top + 2), f"chunk {chunk + 1}", TEXT, font(17))
        draw.text((x, top + 26), f"shot {shot + 1}", shot_colour(shot), font(15))
        draw.text((x, top + 46), name, shot_colour(shot), face(name, font(15)))
        x += LABEL
        self._paste(page, story, chunk * story.chunk_frames + story.chunk_frames // 2, x, top)
        x += THUMB_WIDTH + GAP
        middle = top + height // 2
        draw.polygon([(x + 18, middle - 8), (x + 18, middle + 8), (x + 4, middle)], fill=FAINT)
        x += ARROW
        shares = shot_shares(self._votes[chunk], story)
        _draw_bar(draw, story, shares, x, y)
        for frame in shown_frames(self._votes[chunk], story):
            votes, below = self._votes[chunk][frame], (x, top + height + 4)
            self._paste(page, story, frame, x, top)
            draw.text(below, f"chunk {frame // story.chunk_frames + 1}", FAINT, font(14))
            right = (x + THUMB_WIDTH, below[1])
            draw.text(right, f"{votes}/{self._layers} layers", FAINT, font(14), anchor="ra")
            x += THUMB_WIDTH + GAP

    def _paste(self, page: Image.Image, story: ResolvedStory, frame: int, x: int, y: int) -> None:
        image = Image.open(io.BytesIO(self._images[frame]))
        width, height = image.size
        colour = shot_colour(story.shot_of_chunk[frame // story.chunk_frames])
        ImageDraw.Draw(page).rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        inner = (width - 2 * EDGE, height - 2 * EDGE)
        page.paste(image.resize(inner, Image.Resampling.LANCZOS), (x + EDGE, y + EDGE))


def shot_shares(votes: Counter, story: ResolvedStory) -> dict[int, float]:
    """Each shot's share of the retrieved frames, over all layers, in the film's order."""
    shots: Counter[int] = Counter()
    for frame, count in votes.items():
        shots[story.shot_of_chunk[frame // story.chunk_frames]] += count
    return {shot: shots[shot] / shots.total() for shot in sorted(shots)}


def shown_frames(votes: Counter, story: ResolvedStory) -> list[int]:
    """At most SHOWN retrieved frames, in the film's order: of each shot as many as its share.

    Within a shot, these are the frames that most layers retrieved. Each place goes to the shot that
    is furthest below its share. So a shot with a tenth of the votes or less may have none.
    """
    by_shot: dict[int, list[int]] = {}
    for frame, _ in votes.most_common():
        by_shot.setdefault(story.shot_of_chunk[frame // story.chunk_frames], []).append(frame)
    wanted = {shot: SHOWN * share for shot, share in shot_shares(votes, story).items()}
    places = dict.fromkeys(wanted, 0)
    for _ in range(min(SHOWN, len(votes))):
        has_more = [shot for shot in wanted if places[shot] < len(by_shot[shot])]
        places[max(has_more, key=lambda shot: wanted[shot] - places[shot])] += 1
    return sorted(frame for shot, count in places.items() for frame in by_shot[shot][:count])


def _draw_bar(
    draw: ImageDraw.ImageDraw, story: ResolvedStory, shares: dict[int, float], x: int, y: int
) -> None:
    """The shares side by side, each in its shot's colour, with as much of its name as fits."""
    left, width = float(x), _bar_width()
    for shot, share in shares.items():
        right = left + share * width
        last = right > x + width - 1
        end = max(left, right - (0 if last else 3) - 1)
        draw.rounded_rectangle(
            (left, y, end, y + BAR - 1), min(4, (end - left) / 2), shot_colour(shot)
        )
        text = _label(shot, story.shots[shot].id, share, right - left - 20)
        draw.text((left + 9, y + BAR // 2), text, PAPER, face(text, font(15)), anchor="lm")
        left = right


def _label(shot: int, name: str, share: float, room: float) -> str:
    """The longest that has room, such as "shot 2 otto: 63 %"; empty where none has."""
    percent = f"{100 * share:.0f} %"
    named = f"shot {shot + 1}" if name == f"s{shot + 1}" else f"shot {shot + 1} {name}"
    for text in (f"{named}: {percent}", f"shot {shot + 1}: {percent}", percent):
        if fit_text(text, font(15), room) == text:
            return text
    return ""


def _bar_width() -> int:
    return SHOWN * (THUMB_WIDTH + GAP) - GAP


def _thumb(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    small.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
