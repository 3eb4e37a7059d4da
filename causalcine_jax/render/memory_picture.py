"""What memory brought back: for every chunk, the older frames that most layers retrieved while it was made.

A frame's edge has the colour of its shot, as on the contact sheet, so a shot that remembers another one shows at a glance.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from causalcine_jax.render.typography import FAINT, PAPER, SOFT, TEXT, font, shot_colour
from causalcine_jax.story import ResolvedStory
from causalcine_jax.story_schema import TEMPORAL_STRIDE
from causalcine_jax.utils.atomic_file import atomic_file

SHOWN = 5  # remembered frames per chunk
THUMB_WIDTH = 168
GAP, MARGIN, EDGE = 12, 56, 4
COLUMN_GAP = 48
ONE_COLUMN = 10  # more rows than these stand in two columns
MOST_ROWS = 40


class MemoryPicture:
    """Collects one small image per latent frame and each chunk's votes while a film streams; draws them at the end."""

    def __init__(self):
        self._images: list[Image.Image] = []
        self._votes: list[Counter] = []
        self._layers = 0

    def add(self, frames: UInt8[np.ndarray, "t h w 3"], retrieved: Int[np.ndarray, "l k"]) -> None:
        """The film's next chunk: its frames, and per layer the latent frames from memory (-1: none)."""
        # A latent frame after the first stands for 4 video frames; the last of them represents it.
        first = 0 if not self._images else TEMPORAL_STRIDE - 1
        self._images += [_thumb(image) for image in frames[first::TEMPORAL_STRIDE]]
        self._votes.append(Counter(retrieved[retrieved >= 0].tolist()))
        self._layers = len(retrieved)

    def save(self, path: str | Path, story: ResolvedStory) -> bool:
        """Writes the PNG; returns False, and writes nothing, if memory was never asked (short films, policy none)."""
        chunks = [index for index, votes in enumerate(self._votes) if votes]
        if not chunks:
            return False
        if len(chunks) > MOST_ROWS:
            chunks = [chunks[round(i)] for i in np.linspace(0, len(chunks) - 1, MOST_ROWS)]
        page = self._draw(story, chunks)
        with atomic_file(path) as partial:
            page.save(partial, format="PNG", optimize=True)
        return True

    def _draw(self, story: ResolvedStory, chunks: list[int]) -> Image.Image:
        thumb = self._images[0].size
        columns = 1 if len(chunks) <= ONE_COLUMN else 2
        rows = -(-len(chunks) // columns)
        row_height = thumb[1] + 34
        column_width = 84 + (1 + SHOWN) * (THUMB_WIDTH + GAP) + 20
        size = (
            2 * MARGIN + columns * (column_width + COLUMN_GAP) - COLUMN_GAP,
            MARGIN + 92 + rows * row_height + MARGIN - 20,
        )
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, MARGIN - 14), "What the film remembered", TEXT, font(34))
        subtitle = f"the frames beyond the window that most of the {self._layers} layers retrieved for a chunk; edges in the colour of the shot"
        draw.text((MARGIN, MARGIN + 32), subtitle, SOFT, font(18))
        for place, chunk in enumerate(chunks):
            x = MARGIN + (place // rows) * (column_width + COLUMN_GAP)
            y = MARGIN + 92 + (place % rows) * row_height
            self._draw_row(page, draw, story, chunk, thumb, x, y)
        return page

    def _draw_row(
        self, page, draw, story: ResolvedStory, chunk: int, thumb, x: int, y: int
    ) -> None:
        shot = story.shot_of_chunk[chunk]
        draw.text((x, y + 8), f"chunk {chunk}", TEXT, font(17))
        draw.text((x, y + 32), story.shots[shot].id[:9], shot_colour(shot), font(15))
        x += 84
        self._paste(
            page, draw, story, chunk * story.chunk_frames + story.chunk_frames // 2, thumb, x, y
        )
        x += THUMB_WIDTH + GAP
        middle = y + thumb[1] // 2
        draw.polygon([(x + 18, middle - 8), (x + 18, middle + 8), (x + 4, middle)], fill=FAINT)
        x += 32
        for frame, votes in sorted(self._votes[chunk].most_common(SHOWN)):
            self._paste(page, draw, story, frame, thumb, x, y)
            draw.text(
                (x, y + thumb[1] + 5), f"chunk {frame // story.chunk_frames}", FAINT, font(14)
            )
            draw.text(
                (x + THUMB_WIDTH, y + thumb[1] + 5),
                f"{votes}/{self._layers} layers",
                FAINT,
                font(14),
                anchor="ra",
            )
            x += THUMB_WIDTH + GAP

    def _paste(self, page, draw, story: ResolvedStory, frame: int, thumb, x: int, y: int) -> None:
        colour = shot_colour(story.shot_of_chunk[frame // story.chunk_frames])
        draw.rectangle((x, y, x + thumb[0] - 1, y + thumb[1] - 1), fill=colour)
        inner = (thumb[0] - 2 * EDGE, thumb[1] - 2 * EDGE)
        page.paste(
            self._images[frame].resize(inner, Image.Resampling.LANCZOS), (x + EDGE, y + EDGE)
        )


def _thumb(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    height, width, _ = image.shape
    return Image.fromarray(image).resize(
        (THUMB_WIDTH, round(THUMB_WIDTH * height / width)), Image.Resampling.LANCZOS
    )
