"""Writes a page with films: a folder that opens from the disk, without a server.

    causalcine gallery outputs/demo outputs/desk --out gallery
    causalcine gallery theirs ours --out vote --title "Which film is better?"

Takes all films below the folders: film.mp4 beside its film.json, and any other mp4, beside a story
of its name (.yaml, .json) where there is one. The page plays one film at a time, with its shots and
the frames that memory retrieved. It also plays two in step, and asks for blind votes on films of
the same story; their file names the folder of each film. Films are copied into the folder, so it
can be moved or published alone.
"""

import argparse
import sys
from pathlib import Path

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.errors import printable
from causalcine_jax.utils.output import one_writer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine gallery", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="where films are")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the gallery's folder"
    )
    parser.add_argument(
        "--measures",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="the --out of causalcine evaluate --films, whose numbers are shown; several times",
    )
    parser.add_argument("--title", default="Films", help="above the films (default: Films)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the gallery that is in --out"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    from causalcine_jax.gallery.measures import read_measures
    from causalcine_jax.gallery.write import INDEX, find_films, write_gallery
    from causalcine_jax.utils.progress import progress_bar

    measures = read_measures(flags.measures)
    with one_writer(flags.out, (INDEX,), overwrite=flags.overwrite):
        films = find_films(flags.folders, flags.out)
        with progress_bar(len(films), "film", "gallery") as bar:
            written = write_gallery(
                films, flags.out, flags.title, lambda path: bar.update(), measures
            )
    for reason in written.skipped:
        print(printable(f"left out: {reason}"), file=sys.stderr)
    print(flags.out / INDEX)
