"""Writes a gallery: a folder with films and a page, which opens from the disk without a server."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.errors import DataError, UsageError, listed
from causalcine_jax.film.chunk import frame_of_latent
from causalcine_jax.film_folder.record import FILM, RECORD
from causalcine_jax.gallery.films import GalleryFilm, films_in, folder_names, read_film_card
from causalcine_jax.gallery.measures import Facts
from causalcine_jax.gallery.pictures import COLUMNS, Stills, draw_stills
from causalcine_jax.utils.atomic_file import atomic_file, file_hash, remove_partials, write_text
from causalcine_jax.utils.output import remove_files

INDEX = "index.html"  # comes last: a folder that has it is complete
PAGE = ("gallery.css", "gallery.js", "compare.js", "vote.js", INDEX)
COLOURS = "colours.css"  # the desk's
FILMS = "films"
POSTER, SHEET, DATA = "poster.webp", "retrieved.webp", "films.js"
SCHEMA = "causalcine/gallery@1"


@dataclass(frozen=True)
class Written:
    """What became of it.

    skipped  films that could not be shown, each with the reason
    """

    films: int
    skipped: tuple[str, ...]


def find_films(folders: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """(film, the folder that it is below) of all films below `folders`, less those in `out`.

    A film that lies below two of the folders is listed once. `UsageError` if a folder is missing,
    holds no film, or is in `out`.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for folder in folders:
        for path in _films(folder, out):
            found.setdefault(path.resolve(), (path, folder))
    return list(found.values())


def write_gallery(
    films: Sequence[tuple[Path, Path]],
    out: Path,
    title: str,
    seen: Callable[[Path], None] = lambda path: None,
    measures: Mapping[str, Facts] | None = None,
) -> Written:
    """Writes the gallery of the films that `find_films` found into the folder `out`.

    Films are copied, so that the folder can be moved or published alone. The page of an earlier
    gallery is removed before its films are replaced.

    Args:
      seen: called with every film after it was written.
      measures: facts beside those of film.json, by the SHA-256 of the film.

    Raises:
      DataError: no film could be read, or a file cannot be written.
    """
    shown: list[dict[str, Any]] = []
    skipped: list[str] = []
    names = folder_names(list(dict.fromkeys(folder for _, folder in films)))
    remove_partials(out / FILMS, below=True)
    for path, folder in films:
        try:
            film = read_film_card(path, folder, names[folder] if len(names) > 1 else None)
            if measures and (told := measures.get(file_hash(path))):
                film = replace(film, facts=(*film.facts, *told))
            if not shown:
                remove_files(out, (INDEX,))
            shown.append(write_film(film, out, len(shown) + 1))
        except (DataError, UsageError) as error:
            skipped.append(f"{path}: {error}")
        seen(path)
    if not shown:
        raise DataError("no film could be shown: " + listed(skipped))
    for left in (out / FILMS).glob(f"[0-9]*/{POSTER}"):
        if left.parent.name.isdecimal() and int(left.parent.name) > len(shown):
            shutil.rmtree(left.parent)  # of a larger gallery that was here
    data = {"schema": SCHEMA, "title": title, "films": shown}
    text = json.dumps(data, indent=1)  # ASCII, because names of files may hold any bytes
    write_text(out / DATA, f"const GALLERY = {text};\n")
    for name, page in page_files().items():
        with atomic_file(out / name) as partial:
            partial.write_bytes(page.read_bytes())
    return Written(len(shown), tuple(skipped))


def page_files() -> dict[str, Traversable]:
    """The page's own files, by name."""
    pages = {name: files("causalcine_jax.gallery") / "page" / name for name in PAGE}
    return {COLOURS: files("causalcine_jax.serve") / "page" / "style" / COLOURS, **pages}


def _films(folder: Path, out: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name folders with films")
    inside = out.resolve()
    if folder.resolve().is_relative_to(inside):
        raise UsageError(f"{folder} is in --out, where the gallery goes: choose another --out")
    found = [path for path in films_in(folder) if not path.resolve().is_relative_to(inside)]
    if not found:
        raise UsageError(f"{folder} holds no film: no mp4 is below it")
    return found


def write_film(film: GalleryFilm, out: Path, number: int) -> dict[str, Any]:
    """Copies a film into the folder `out`, draws its stills; returns what the page knows of it.

    Raises:
      DataError: the film cannot be decoded or a file cannot be written.
    """
    place = f"{FILMS}/{number:03}"
    folder = out / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RECORD, SHEET):  # of another film that was here
        (folder / name).unlink(missing_ok=True)
    stills = draw_stills(film, folder / POSTER, folder / SHEET)
    for source, name in ((film.path, FILM), (film.record, RECORD)):
        if source is not None:
            with atomic_file(folder / name) as partial:
                shutil.copyfile(source, partial)
    return {
        "title": film.title,
        "system": film.system,
        "folder": place,
        "record": film.record is not None,
        "global": film.story.global_caption if film.story else "",
        "width": stills.width,
        "height": stills.height,
        "fps": round(stills.fps, 3),
        "frames": stills.frames,
        "shots": _shots(film, stills),
        "retrieved": _retrieved(film, stills),
        "sheet": {"columns": COLUMNS, "width": stills.thumb[0], "height": stills.thumb[1]},
        "facts": film.facts,
    }


def _shots(film: GalleryFilm, stills: Stills) -> list[dict[str, Any]]:
    if film.resolved is None:
        return [{"caption": "", "first_frame": 0, "frames": stills.frames}]
    return [
        {"caption": shot.caption, "first_frame": shot.first_frame, "frames": shot.frames}
        for shot in film.resolved.shots
        if shot.first_frame < stills.frames
    ]


def _retrieved(film: GalleryFilm, stills: Stills) -> list[dict[str, Any]]:
    place_of = {latent: place for place, latent in enumerate(stills.retrieved)}
    return [
        {
            "first_frame": first_frame_of_chunk(each.chunk, film.chunk_frames),
            "frames": [
                {"place": place_of[latent], "frame": frame_of_latent(latent), "share": share}
                for latent, share in zip(each.frames, each.shares, strict=True)
                if latent in place_of
            ],
        }
        for each in film.retrieved
    ]
