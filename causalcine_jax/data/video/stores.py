"""Latents, captions and token ids to the stores that training reads.

all films of a split and length, in order -> a latent store beside the old one -> put in its place
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from causalcine_jax.clock import FPS
from causalcine_jax.data.encode import tokenizer_hash
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.store_layout import SPEC_FILE, StoreSpec, partial_path, read_spec
from causalcine_jax.data.video.bars import WHOLE
from causalcine_jax.data.video.captioning import Film
from causalcine_jax.data.video.config import SPLITS
from causalcine_jax.data.video.manifest import Row, content_id, write_rows
from causalcine_jax.data.video.target import Target
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.output import check_no_link

FILMS = "films.jsonl"  # in a store: where each of its films comes from


@dataclass(frozen=True)
class Encoded:
    """A film and the file of its latents."""

    film: Film
    latents: Path

    @property
    def row(self) -> Row:
        """Where the film comes from, and what it shows, for films.jsonl."""
        film, picture = self.film, self.film.video.clock.picture
        shots = [
            {"first": piece.first, "stop": piece.stop, "caption": caption}
            for piece, caption in zip(film.window.pieces, film.captions.shots, strict=True)
        ]
        return {
            "id": film.window.id,
            "file": film.video.name,
            "sha256": film.video.sha256,
            "source": film.video.source,
            "licence": film.video.licence or film.captions.licence,
            "global": film.captions.whole,
            "shots": shots,
            **({"overlaps": True} if film.window.overlaps else {}),
            **({"picture": picture} if picture != WHOLE else {}),
        }


def spec_of(films: Sequence[Film], target: Target, films_per_shard: int, content: str) -> StoreSpec:
    """The spec of a store of `films` of one length; `content` is a hash of what is in it."""
    height, width, channels = target.latents
    return StoreSpec(
        films=len(films),
        latent_frames=films[0].window.chunks * target.chunk_frames,
        height=height,
        width=width,
        shots=max(len(film.window.pieces) for film in films),
        text_len=target.text_len,
        source={"videos": content, "fps": FPS},
        vae=target.vae_hash,
        tokenizer=tokenizer_hash(target.tokenizer),
        channels=channels,
        chunk_frames=target.chunk_frames,
        films_per_shard=films_per_shard,
    )


def put_store(
    path: Path, films: Sequence[Encoded], target: Target, films_per_shard: int
) -> LatentStore:
    """Makes the store at `path` hold `films`. Until it is whole, the store before it stays.

    Raises:
      DataError: the disk is full, or cannot be written.
      UsageError: `path` is a link, and its store would be replaced.
    """
    rows = [film.row for film in films]
    content = content_id(rows, [film.latents.name for film in films])
    spec = spec_of([each.film for each in films], target, films_per_shard, content)
    _, new, old = _folders(path)
    if old.exists():  # stopped between the two renames below, or before the removal
        if path.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, path)
    if path.exists() and read_spec(path) == spec:
        return LatentStore.open(path)
    check_no_link(path)
    for leftover in (new, partial_path(new)):
        if leftover.exists() and not _is_of(leftover, spec):
            shutil.rmtree(leftover)
    writer = LatentStoreWriter(new, spec)
    for shard in writer.pending():
        writer.write(shard, [_record(films[index], target) for index in shard])
    if not new.exists():
        write_rows(partial_path(new) / FILMS, rows)
    writer.finish()
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old, ignore_errors=True)
    return LatentStore.open(path)


def check_stores(paths: Iterable[Path]) -> None:
    """`UsageError` if something that is no store is where a store will be put or removed."""
    for folder in paths:
        if folder.exists() and not (folder / SPEC_FILE).is_file() and _holds_something(folder):
            raise UsageError(
                f"{folder} is not a store of this command (it has no {SPEC_FILE}), and would be "
                "replaced: choose another --out, or move it away"
            )


def remove_store(path: Path) -> None:
    """Removes a store that no film belongs to any more. Call `check_stores` before.

    It is renamed first, so that a kill leaves no half of a store under its name.
    """
    _, new, old = _folders(path)
    for folder in (new, old):
        if folder.exists():
            shutil.rmtree(folder)
    if path.exists():
        os.replace(path, old)
        shutil.rmtree(old)


def of_other_lengths(out: Path, stores: Iterable[Path]) -> list[Path]:
    """Stores of films of lengths that are not asked for any more."""
    own = re.compile(rf"({'|'.join(SPLITS)})-\d+")
    return [
        path
        for path in sorted(out.iterdir())
        if own.fullmatch(path.name) and path not in {*stores} and (path / SPEC_FILE).is_file()
    ]


def _folders(path: Path) -> tuple[Path, ...]:
    """A store, the one to take its place, and the one whose place it takes."""
    return (path, *(path.with_name(f"{path.name}.{word}") for word in ("new", "old")))


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def _is_of(folder: Path, spec: StoreSpec) -> bool:
    try:
        return read_spec(folder) == spec
    except DataError:
        return False


def _record(encoded: Encoded, target: Target) -> NewRecord:
    try:
        latents = np.load(encoded.latents)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{encoded.latents} cannot be read ({error}); delete it and run again"
        ) from None
    prompts = encoded.film.prompts
    token_ids, _ = target.tokenizer(prompts, target.text_len)
    return NewRecord(latents, token_ids, np.asarray(encoded.film.window.shot_of_chunk()), prompts)
