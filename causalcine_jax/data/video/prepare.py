"""`causalcine prepare`: a folder of videos to latent stores that `causalcine train` reads.

    probe -> scan (shots) -> text -> windows -> filters -> captions -> latents -> stores

Every stage takes rows and gives rows. What reads videos or asks a captioner keeps its rows in
OUT/work by what they depend on, so a run that was stopped, or that has more videos, goes on.

    OUT/train, OUT/held_out              latent stores; films.jsonl in each names the films, and
                                         --embeddings adds those of their prompts
    OUT/train-15, OUT/held_out-15        the same of shorter films, here of 15 latent frames
    OUT/report.json                      numbers of every stage, and rejects by reason
    OUT/contact_sheet.png, rejects.html  windows and rejects to look at; rejects.jsonl has them all
    OUT/work/latents                     a film's latents; may be deleted in the end
    OUT/work/*.jsonl                     rows of the stages, a captioner's answers among them: kept
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from causalcine_jax.clock import FPS
from causalcine_jax.convert.find import find_part
from causalcine_jax.data.embed_command import embed_stores
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.store_layout import SPEC_FILE, read_spec
from causalcine_jax.data.video import probe, report, text
from causalcine_jax.data.video.bars import WHOLE
from causalcine_jax.data.video.captioner import CAPTIONER_FAILED
from causalcine_jax.data.video.captioning import Film
from causalcine_jax.data.video.choosing import (
    captioned,
    captioner_of,
    length_advice,
    where,
    windows,
)
from causalcine_jax.data.video.config import PrepareConfig, part_text
from causalcine_jax.data.video.embeddings import embedder_of
from causalcine_jax.data.video.encode import Encoding, WindowToEncode
from causalcine_jax.data.video.executors import executor_of
from causalcine_jax.data.video.filters import Reason, is_held_out
from causalcine_jax.data.video.frames import VERSION as READ_VERSION
from causalcine_jax.data.video.manifest import content_id, write_rows
from causalcine_jax.data.video.parts import of_part
from causalcine_jax.data.video.reading import detector_of, probed, scanned
from causalcine_jax.data.video.stores import (
    Encoded,
    check_stores,
    of_other_lengths,
    put_store,
    remove_store,
    spec_of,
)
from causalcine_jax.data.video.target import Target, check_settings, settings, target_of
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import DataError, kept_when_stopped
from causalcine_jax.utils.atomic_file import remove_partials, write_json
from causalcine_jax.utils.output import check_disk, check_utf8, one_writer

OTHER_PARTS = "windows are not compared with those of other parts: both copies may be kept"
SETTINGS, REPORT = "settings.json", "report.json"
FILES = (REPORT, SETTINGS, "contact_sheet.png", "rejects.html", "rejects.jsonl")


@dataclass(frozen=True)
class Prepared:
    """The stores that hold films, by their names in `out`, and what report.json says."""

    stores: dict[str, LatentStore]
    numbers: dict[str, Any]


def prepare(config: PrepareConfig, *, progress: bool = True) -> Prepared:
    """Writes the stores. Called again after an interruption, or with more videos, it goes on.

    Raises:
      UsageError: the request is bad, or `config.out` is of other settings or cannot be had.
      DataError: no film is left, the model's files are bad, or the disk is full.
      StoppedEarly: for a KeyboardInterrupt; what was made is kept.
    """
    kept = "stopped: what was made is kept; the same command goes on from there"
    if config.ray is not None:  # other processes have folders of their own to start from
        paths = {name: getattr(config, name).absolute() for name in ("folder", "out", "model")}
        if config.detector_weights:
            paths["detector_weights"] = config.detector_weights.absolute()
        config = replace(config, **paths)
        if config.duplicates_weights:
            network, weights = config.duplicates_weights
            config = replace(config, duplicates_weights=(network, weights.absolute()))
    with (
        one_writer(config.out, FILES),
        kept_when_stopped(kept),
        executor_of(config) as executor,
    ):
        return _prepare(Work(config, progress, executor=executor))


def _prepare(work: Work) -> Prepared:
    config, out = work.config, work.config.out
    check_utf8(out)
    check_stores(config.stores.values())
    files, told = probe.files_of(config.folder, out)
    captioner = captioner_of(config)
    detector_of(config.detector, config.detector_weights)  # if it fails, then now
    if config.duplicates_weights:
        embedder_of(*config.duplicates_weights)
    if config.embeddings:
        find_part(config.model, "text_encoder")  # as above
    if config.filters.most_text < 1:
        text.check_installed()
    target = target_of(config)
    there = any(path.exists() for path in config.stores.values())
    check_settings(out / SETTINGS, settings(config, target), config.overwrite or not there)
    remove_partials(out / "work", below=True)
    mine = of_part(work, files)
    videos = text.with_text(work, scanned(work, probed(work, mine, told, files)), target)
    chosen = windows(work, videos, target)
    encoded = _encoded(work, captioned(work, chosen, *captioner, target), target)

    films, size = [one.film for one in encoded], (target.height, target.width)
    work.rejects.sort(key=lambda row: (row["file"], row.get("first", -1), row["stage"]))
    numbers = {
        "files": len(mine),
        "videos": len(videos),
        "video_seconds": round(sum(video.scan["frames"] for video in videos) / FPS, 1),
        "black_bars": sum(video.clock.picture != WHOLE for video in videos),
        "shots": sum(len(video.scan["shots"]) for video in videos),
        "windows": len(chosen),
        "films": len(films),
        "film_seconds": round(sum(film.window.frames for film in films) / FPS, 1),
        "rejects": report.counted(work.rejects),
    }
    if advice := length_advice(work.runs, target):
        numbers["lengths"] = advice
    if part := part_text(config.part):
        numbers |= {"part": part, "note": OTHER_PARTS}
    write_rows(out / "rejects.jsonl", work.rejects)
    by_name = {video.name: video for video in videos}
    report.save_rejects(out / "rejects.html", work.rejects, by_name, size)
    write_json(out / REPORT, numbers)
    if not films:
        raise DataError(
            f"no film is left of {config.folder}: {out / 'rejects.html'} says why "
            f"({report.most(work.rejects)})" + (f"; {advice}" if advice else "")
        )
    check_failed(work, len(films))
    report.save_sheet(out / "contact_sheet.png", films, size)
    stores = _stores(work, encoded, target)
    for name, store in stores.items():
        split = name.split("-")[0]
        numbers[split] = numbers.get(split, 0) + len(store)
    if config.shorter:
        numbers["stores"] = {name: len(store) for name, store in stores.items()}
    write_json(out / REPORT, numbers)
    if config.embeddings:
        paths = [store.path for store in stores.values()]
        on_devices = work.executor.on_devices
        embed_stores(config.model, paths, progress=work.progress, each=on_devices)
    return Prepared(stores, numbers)


def check_failed(work: Work, films: int) -> None:
    """Refuses to replace stores of more films by `films` where the captioner failed.

    Raises:
      DataError: it would, and `config.overwrite` does not ask for it.
    """
    out = work.config.out
    failed = sum(row["kind"] == CAPTIONER_FAILED for row in work.rejects)
    there = [path for path in work.config.stores.values() if (path / SPEC_FILE).is_file()]
    before = sum(read_spec(path).films for path in there)
    if failed and films < before and not work.config.overwrite:
        raise DataError(
            f"the captioner failed for {failed} windows ({out / 'rejects.html'} says why), so "
            f"{films} films are left, and the stores in {out} have {before}: they stay as they "
            "are; run again to ask again, or add --overwrite to replace them"
        )


def _encoded(work: Work, films: Sequence[Film], target: Target) -> list[Encoded]:
    """Encodes the films whose latents are missing, and drops those that cannot be read."""
    config = work.config
    if not films:
        return []
    encoded = [Encoded(film, _latents_file(config.out, film, target)) for film in films]
    missing = [one for one in encoded if not one.latents.exists()]
    longest, *_ = by_length = sorted(films, key=lambda film: film.window.chunks, reverse=True)
    film_bytes = spec_of(by_length, target, config.films_per_shard, "").film_bytes  # of the longest
    chunks = sum(film.window.chunks for film in (*films, *(one.film for one in missing)))
    check_disk(chunks * film_bytes // longest.window.chunks, config.out)
    to_encode = [
        WindowToEncode(
            one.film.video.file, one.film.video.clock, one.film.window.ranges, one.latents
        )
        for one in missing
    ]
    encoding = Encoding(config.model, target.height, target.width)
    reasons: dict[Path, Reason] = {}
    with work.bar(len(films), "window", "encode", len(films) - len(to_encode)) as bar:
        for window, reason in work.executor.encoded(to_encode, encoding):
            bar.update(1)
            if reason:
                reasons[window.file] = reason
    for one in missing:
        if reason := reasons.get(one.latents):
            work.drop("encode", one.film.video.name, reason, **where(one.film.window))
    return [one for one in encoded if one.latents not in reasons]


def _latents_file(out: Path, film: Film, target: Target) -> Path:
    inside = film.video.clock.picture
    seen = target.height, target.width, *([] if inside == WHOLE else [inside])
    name = content_id("latents", READ_VERSION, film.window.id, target.vae_hash, *seen)
    return out / "work" / "latents" / name[:2] / f"{name}.npy"


def _stores(work: Work, encoded: Sequence[Encoded], target: Target) -> dict[str, LatentStore]:
    config, stores = work.config, {}
    for (split, frames), path in config.stores.items():
        mine = [
            one
            for one in encoded
            if one.film.window.chunks * target.chunk_frames == frames
            and is_held_out(one.film.video.source, config.held_out) == (split == "held_out")
        ]
        if mine:
            stores[path.name] = put_store(path, mine, target, config.films_per_shard)
        else:
            remove_store(path)
    for path in of_other_lengths(config.out, config.stores.values()):
        remove_store(path)
    return stores
