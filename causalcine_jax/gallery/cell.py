"""A film as a notebook shows it: the gallery's page with the film and its pictures inside.

It needs no kernel and no widgets, so it stays in a stored notebook and in pages made of it.
"""

import base64
import html
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film_folder.record import FILM, RECORD, recorded_settings
from causalcine_jax.gallery.films import read_film_card
from causalcine_jax.gallery.write import DATA, POSTER, SHEET, page_files, write_film
from causalcine_jax.render.mp4 import FilmWriter, viewing_scale
from causalcine_jax.utils.atomic_file import write_text

if TYPE_CHECKING:
    from causalcine_jax.film.director import Director

WIDTH, BELOW = 640, 330  # pixels of the picture's width, and of the height of what is below it
TYPES = {"mp4": "video/mp4", "webp": "image/webp"}


@dataclass(frozen=True)
class FilmCell:
    """What a notebook shows of a film. `page` is an HTML document of its own."""

    page: str = field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        # In a frame, so that neither page meets the other's styles and names.
        style = f"width: 100%; max-width: {WIDTH}px; height: {self.height}px; border: 0"
        return (
            f'<iframe title="The film" style="{style}" srcdoc="{html.escape(self.page)}"></iframe>'
        )


def film_cell(director: "Director", chunks: Sequence[Chunk]) -> FilmCell:
    """The film of these chunks, from its first on: shots, cuts, and what memory retrieved.

    Raises:
      DataError: there is no chunk.
    """
    scale = viewing_scale(director.settings.height)
    with tempfile.TemporaryDirectory(prefix="film.") as temporary:
        folder = Path(temporary)
        with FilmWriter(folder / FILM, director.story.video.fps, scale) as film:
            for chunk in chunks:
                film.append(chunk.frames)
        record = {
            "story": director.story.to_dict(),
            **recorded_settings(director),
            "retrieved": [chunk.retrieved.tolist() for chunk in chunks],
        }
        write_text(folder / RECORD, json.dumps(record))
        shown = write_film(read_film_card(folder / FILM, folder), folder, 1)
        files = {
            name: _address(path)
            for name in (FILM, POSTER, SHEET)
            if (path := folder / shown["folder"] / name).is_file()
        }
    one = {**shown, "title": "", "system": "", "record": False, "files": files}
    height = WIDTH * shown["height"] // shown["width"] + BELOW
    return FilmCell(_page({"title": "", "films": [one]}), height)


def _page(gallery: dict[str, Any]) -> str:
    """The gallery's page with its styles, scripts and data inside."""
    data = json.dumps(gallery).replace("<", "\\u003c")  # no caption may end the script
    texts = {name: page.read_text("utf-8") for name, page in page_files().items()}
    page, texts[DATA] = texts["index.html"], f"const GALLERY = {data};"
    page = re.sub(
        r'<link rel="stylesheet" href="([^"]+)" />',
        lambda link: f"<style>\n{texts[link[1]]}</style>",
        page,
    )
    deferred = r'\s*<script defer src="([^"]+)"></script>'
    names = re.findall(deferred, page)
    last = "\n".join(f"<script>\n{texts[name]}\n</script>" for name in names)
    return re.sub(deferred, "", page).replace("</body>", f"{last}\n</body>")


def _address(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{TYPES[path.suffix[1:]]};base64,{data}"
