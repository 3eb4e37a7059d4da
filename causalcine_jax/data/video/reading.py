"""The stages that read videos: what each file is, and its shots."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video import probe, sidecars
from causalcine_jax.data.video import scan as scanning
from causalcine_jax.data.video.captioning import SourceVideo
from causalcine_jax.data.video.captions import Captions, Cuts
from causalcine_jax.data.video.config import CAPTION_CUTS
from causalcine_jax.data.video.embeddings import embedder_of
from causalcine_jax.data.video.manifest import Manifest, Row, content_id
from causalcine_jax.data.video.shots import ShotDetector, shot_detector
from causalcine_jax.data.video.target import embedder_text
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import DataError, UsageError, counted, shown
from causalcine_jax.utils.atomic_file import file_hash


def probed(
    work: Work,
    files: Mapping[Path, str | None],
    told: Sequence[Path],
    every: Sequence[Path] | None = None,
) -> list[SourceVideo]:
    """The files that are videos, each content once, with the captions beside them (`told`).

    Args:
      files: those of this part, each with its hash if it is known (parts.py).
      told: files of captions.
      every: the files of all parts; None if `files` are all.
    """
    config = work.config
    licence = " ".join(config.licence.split())
    # What is wrong with captions of no video is counted once, in the first part.
    rejects = work.rejects if config.part[0] == 1 else []
    beside = sidecars.found(every or [*files], told, rejects, config.folder, [*files])
    if not all(beside[file].source for file in files):
        _check_source_from(config.source_from, [work.name(file) for file in every or files])
    rows: dict[Path, Row] = {}
    manifest = work.manifest("probe")
    with work.bar(len(files), "file", "probe") as bar:
        pending = []
        for file, sha256 in files.items():
            row = _known(manifest, file)
            if row is None:
                pending.append((file, sha256))
            else:
                rows[file] = row
                bar.update(1)
        for (file, _), found in work.executor.each(_probe, pending):
            bar.update(1)
            if isinstance(found, tuple):
                work.drop("probe", work.name(file), found)
            else:
                manifest.add(found)
                rows[file] = found
    copies: dict[str, list[Path]] = {}
    for file in files:
        if file in rows:
            copies.setdefault(rows[file]["sha256"], []).append(file)
    return [_one_of(work, same, rows, beside, licence) for same in copies.values()]


def _one_of(
    work: Work,
    copies: Sequence[Path],
    rows: Mapping[Path, Row],
    beside: Mapping[Path, sidecars.Sidecars],
    licence: str,
) -> SourceVideo:
    """The first copy of a video with captions, else its first; the others are dropped.

    Licence and source may stand beside any copy. `licence` is for a video that has none.
    """
    config = work.config
    captioned = (file for file in copies if isinstance(beside[file].captions, Captions))
    file = next(captioned, copies[0])
    name, ordered = work.name(file), [file, *(copy for copy in copies if copy != file)]
    for copy in ordered[1:]:
        work.drop("probe", work.name(copy), ("same file", f"its content is that of {name}"))
    named = [beside[copy].source for copy in ordered]
    named += [sidecars.source_of(work.name(copy), config.source_from) for copy in ordered]
    source = next(filter(None, named), "")
    licence = next(filter(None, [beside[copy].licence for copy in ordered]), licence)
    captions = beside[file].captions
    if isinstance(captions, tuple) and (config.captioner or config.captioner_url):
        kind, words = captions
        work.drop("captions", name, (kind, f"{words}; the captioner is asked instead"))
    return SourceVideo(file, name, rows[file], captions, {}, licence, source)


def _check_source_from(pattern: str | None, names: Sequence[str]) -> None:
    """`UsageError` if the expression gives no file a source: clips of a film would be split.

    By PARENT, videos directly in the folder stay sources of their own.
    """
    if pattern in (None, sidecars.PARENT):
        return
    if not any(sidecars.source_of(name, pattern) for name in names):
        raise UsageError(
            f"--source-from {shown(pattern)} gives none of {counted(len(names), 'file')} a source, "
            f"such as {shown(names[0])}: correct it, or leave it out"
        )


def scanned(work: Work, videos: Sequence[SourceVideo]) -> list[SourceVideo]:
    """The videos that can be read to their end, with their shots."""
    config = work.config
    weights = file_hash(config.detector_weights) if config.detector_weights else None
    embedder = [embedder_text(config)] if config.duplicates_weights else []
    tasks: dict[str, _Scan] = {}
    for video in videos:
        cuts = None
        if config.detector == CAPTION_CUTS:
            told = video.captions
            cuts = told.cuts if isinstance(told, Captions) else None
            if cuts is None:
                reason = "no cuts", "the captions do not say where its shots begin"
                work.drop("shots", video.name, reason)
                continue
        row_id = content_id(
            "scan",
            scanning.VERSION,
            video.sha256,
            config.detector,
            weights,
            cuts and vars(cuts),
            *embedder,
        )
        detector = config.detector, config.detector_weights
        tasks[row_id] = _Scan(row_id, video, *detector, cuts, config.duplicates_weights)
    rows = rows_of(work, "shots", tasks, _scan)
    embedder_of.cache_clear()  # frees its memory for the VAE
    return [_of_scan(tasks[row_id], row) for row_id, row in rows.items()]


def _of_scan(task: "_Scan", row: Row) -> SourceVideo:
    """The scanned video. Where its shots are those that the captions cut, they are told in order.

    Otherwise `Captions.at` finds each shot's by time.
    """
    video, told = replace(task.video, scan=row), task.video.captions
    starts = task.cuts.starts if task.cuts else ()
    if isinstance(told, Captions) and len(row["shots"]) == len(starts) and starts[0] == 0:
        return replace(video, captions=replace(told, cuts=None))
    return video


class OfVideo(Protocol):
    """A task whose result is a row of its id, about its video."""

    @property
    def id(self) -> str: ...

    @property
    def video(self) -> SourceVideo: ...


AnyTask = TypeVar("AnyTask", bound=OfVideo)


def rows_of(
    work: Work, stage: str, tasks: dict[str, AnyTask], made: Callable[[AnyTask], Row | Reason]
) -> dict[str, Row]:
    """The stage's rows by id, in the order of `tasks`: those on disk, and what is `made` now.

    A video without one, or whose row has a "reason", is dropped.
    """
    manifest, crashed = work.manifest(stage), {}
    pending = [task for row_id, task in tasks.items() if manifest.get(row_id) is None]
    with work.bar(len(tasks), "video", stage, len(tasks) - len(pending)) as bar:
        for task, found in work.executor.each(made, pending):
            bar.update(1)
            if isinstance(found, tuple):
                crashed[task.id] = found
            else:
                manifest.add(found)
    rows: dict[str, Row] = {}
    for row_id, task in tasks.items():
        row = manifest.get(row_id)
        if row is None:
            work.drop(stage, task.video.name, crashed[row_id])
        elif "reason" in row:
            work.drop(stage, task.video.name, tuple(row["reason"]))
        else:
            rows[row_id] = row
    return rows


@dataclass(frozen=True)
class _Scan:
    id: str
    video: SourceVideo
    detector: str
    weights: Path | None
    cuts: Cuts | None
    embedder: tuple[str, Path] | None


def _probe(task: tuple[Path, str | None]) -> Row | Reason:
    file, sha256 = task
    try:
        return {"id": probe.probe_id(file), **probe.probe(file, sha256)}
    except (UsageError, DataError) as error:
        return "unreadable", str(error)


def _known(manifest: Manifest, file: Path) -> Row | None:
    try:
        return manifest.get(probe.probe_id(file))
    except DataError:
        return None  # probing it says why


@functools.lru_cache(1)
def detector_of(name: str, weights: Path | None) -> ShotDetector | None:
    """The detector, once per process; None where the captions say where shots begin."""
    return None if name == CAPTION_CUTS else shot_detector(name, weights)


def _scan(task: _Scan) -> Row:
    detector = detector_of(task.detector, task.weights)
    size = scanning.SIZES.get(task.detector, scanning.SIZE)
    embed = embedder_of(*task.embedder) if task.embedder else None
    try:
        return {"id": task.id, **scanning.scan(task.video.file, detector, task.cuts, size, embed)}
    except (UsageError, DataError) as error:
        return {"id": task.id, "reason": ["unreadable", str(error)]}
