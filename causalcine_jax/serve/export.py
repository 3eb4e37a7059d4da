"""A take as files: film.mp4, film.json, story.yaml, contact_sheet.png; and single frames.

The mp4 is the chunks' media, one after another. film.json makes the same frames again with
`causalcine film --story film.json`. Its hash is of the frames before they were encoded.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from causalcine_jax.film.record_schema import SCHEMA
from causalcine_jax.film_folder.record import pretty, resolved_dict
from causalcine_jax.render.contact_sheet import save_contact_sheet, thumbnail, wanted_frames
from causalcine_jax.render.mp4 import some_frames, viewing_scale
from causalcine_jax.serve.media import joined
from causalcine_jax.serve.parts import TakeInfo
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.timeline import story_of
from causalcine_jax.story import Story, write_story
from causalcine_jax.utils.atomic_file import write_text

THUMB = (320, 320)  # at most, of a single frame


@dataclass(frozen=True)
class TakeFiles:
    """What a take's files are made of, so that another thread may write them.

    story   of the chunks made so far, with the size and negative prompt that were used
    chunks  their media
    sha256  of their frames; None where unknown
    """

    folder: Path
    take: TakeInfo
    story: Story
    header: Path
    chunks: tuple[Path, ...]
    sha256: str | None
    chunk_frames: int

    def write(self, name: str, recorded_settings: dict[str, Any]) -> Path:
        """The file of that name, one of TAKE_FILES, in `folder`. `DataError` if writing fails."""
        path = self.folder / name
        {
            "film.mp4": lambda: joined(self.header, self.chunks, path),
            "film.json": lambda: self._write_record(path, recorded_settings),
            "story.yaml": lambda: write_story(self.story, path),
            "contact_sheet.png": lambda: self._write_sheet(path, recorded_settings),
        }[name]()
        return path

    def _write_record(self, path: Path, recorded_settings: dict[str, Any]) -> None:
        record = {
            "schema": SCHEMA,
            "story": self.story.to_dict(),
            **recorded_settings,
            "resolved": resolved_dict(self.story.resolve(self.chunk_frames)),
            "scale": viewing_scale(self.story.video.size[0]),
            **({"frames_sha256": self.sha256} if self.sha256 else {}),
            "take": self.take.model_dump(),
        }
        write_text(path, pretty(record) + "\n")

    def _write_sheet(self, path: Path, recorded_settings: dict[str, Any]) -> None:
        film = self.write("film.mp4", recorded_settings)
        resolved, video = self.story.resolve(self.chunk_frames), self.story.video
        thumbs = {n: thumbnail(image) for n, image in some_frames(film, wanted_frames(resolved))}
        details = (
            f"{resolved.frames / video.fps:.1f} s | {resolved.frames} frames of "
            f"{video.width}x{video.height} at {video.fps} fps | seed {self.story.seed} | "
            f"take {self.take.take_id} | {recorded_settings.get('model', '')}"
        )
        save_contact_sheet(path, resolved, thumbs, self.story.global_caption, details)


def take_files(project: Project, take_id: str, head: Story, chunk_frames: int) -> TakeFiles:
    """A take as it is now. `Refused` if it has no chunk.

    head  the story without shots, as the director completed it
    """
    chunks = len(project.line(take_id))
    if chunks == 0:
        raise Refused("unknown_take", f"{take_id} has no chunk yet", "take_id")
    digest = project.digest(take_id, chunks)
    return TakeFiles(
        project.folder_of(take_id) / "export",
        project.info(take_id),
        replace(head, shots=story_of(project, take_id).shots),
        project.header,
        tuple(project.media(take_id, chunk) for chunk in range(chunks)),
        None if digest is None else digest.hexdigest(),
        chunk_frames,
    )


def frame_file(header: Path, chunk: Path, place: int) -> bytes:
    """A JPEG of the frame at `place` in a chunk."""
    film = io.BytesIO(header.read_bytes() + chunk.read_bytes())
    ((_, image),) = some_frames(film, {place})
    picture = Image.fromarray(image)
    picture.thumbnail(THUMB)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
