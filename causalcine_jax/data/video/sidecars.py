"""The files beside a video: its captions, its licence, and the film that it was cut from.

For film.mp4: film.json, film.yaml or film.txt beside it, a row of a ShotStream table, or a folder
of LongLive 2.0. The first with captions gives them. Licence and source come from the first that
names them, so a JSON file may give them where the captions are elsewhere.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.captions import (
    LISTS,
    Captions,
    Cuts,
    about,
    caption_of,
    checked,
    parse,
    parse_text,
    ranges,
)
from causalcine_jax.data.video.filters import reject
from causalcine_jax.data.video.manifest import Row, path_text
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.plain_data import read_plain, read_text

PARENT = "parent"  # in place of a regular expression: a video's source is its folder


@dataclass(frozen=True)
class Sidecars:
    """What the files beside a video say.

    captions  or why they cannot be used; None if there are none
    licence   of the video
    source    the film that it was cut from
    """

    captions: Captions | Reason | None = None
    licence: str = ""
    source: str = ""


def found(
    videos: Sequence[Path],
    files: Sequence[Path],
    rejects: list[Row],
    folder: Path,
    mine: Sequence[Path] | None = None,
) -> dict[Path, Sidecars]:
    """What is beside every video, and rejects for the files that belong to none.

    Args:
      mine: the videos whose files are read; None for all.
    """
    read_of = set(videos if mine is None else mine)
    used: set[Path] = set()
    told: dict[Path, Captions] = {}
    for table in (file for file in files if file.suffix == ".csv"):
        try:
            rows = shotstream_table(table)
        except (UsageError, DataError) as error:
            rejects.append(reject("captions", _name(table, folder), ("bad captions", str(error))))
            used.add(table)
            continue
        by_stem = {video.resolve().with_suffix(""): video for video in videos}
        for named, captions in rows.items():
            video = by_stem.get(named) or by_stem.get(named.with_suffix(""))
            if video is not None:
                told[video] = captions
                used.add(table)
    beside_each = {}
    for video in videos:
        places = beside(video)
        used.update(places)
        used.update(place.parent for place in places if place.name == "0.json")
        if video in read_of:
            beside_each[video] = _read_all(places, told.get(video))
    lost = "captions without a video", "no such video"
    rejects += [
        reject("captions", _name(file, folder), lost)
        for file in files
        if not {file, file.parent} & used
    ]
    return beside_each


def _name(file: Path, folder: Path) -> str:
    return path_text(file.relative_to(folder))


def _read_all(files: Sequence[Path], told: Captions | None) -> Sidecars:
    """What `files` say, the first first; `told` are captions from elsewhere, which win."""
    captions: Captions | Reason | None = told if told and told.describe else None
    licence, source = (told.licence, told.source) if told else ("", "")
    for file in files:
        if captions is None:
            try:
                read_now = read(file)
                captions = read_now if read_now.describe else None
                named = read_now.licence, read_now.source
            except (UsageError, DataError) as error:
                captions, named = ("bad captions", str(error)), _about(file)
        else:
            named = _about(file)
        licence, source = licence or named[0], source or named[1]
    return Sidecars(captions, licence, source)


def _about(file: Path) -> tuple[str, str]:
    """The licence and the source in a file whose captions are not read."""
    if file.suffix == ".txt":
        return "", ""
    try:
        return about(read_plain(file))
    except (UsageError, DataError):
        return "", ""


def source_of(name: str, pattern: str | None) -> str:
    """The source of a video by its name within the folder; empty if it names none.

    Args:
      name: such as a/b/clip.mp4.
      pattern: a regular expression, whose first group or whole match is the source; or PARENT: the
        folder a/b is, and a video directly in the folder has none.
    """
    if pattern is None:
        return ""
    if pattern == PARENT:
        return name.rpartition("/")[0]
    match = re.search(pattern, name)
    return (match[min(1, match.re.groups)] or "") if match else ""


def beside(video: Path) -> list[Path]:
    """The files that may hold a video's captions, the first that exists first."""
    places = [video.with_suffix(suffix) for suffix in (".json", ".yaml", ".yml", ".txt")]
    folders = [
        video.with_suffix(""),
        video.parent.parent / "caption" / video.stem,
        video.parent.parent.parent / "caption" / video.parent.name,
    ]
    places += [folder / "0.json" for folder in folders]
    return [place for place in places if place.is_file()]


def read(file: Path) -> Captions:
    """The captions in a file of `beside`, which may also be a licence or a source alone.

    Raises:
      UsageError, DataError: they cannot be understood.
    """
    if file.suffix == ".txt":
        return parse_text(read_text(file))
    data = read_plain(file)
    # LongLive's 0.json holds one shot's caption; that of a video called 0 holds all of them.
    whole = isinstance(data, Mapping) and any(key in data for key in (*LISTS, "story"))
    if file.name == "0.json" and not whole:
        return _longlive_folder(file.parent)
    return parse(data, str(file))


def _longlive_folder(folder: Path) -> Captions:
    """LongLive 2.0: 0.json, 1.json, ... and perhaps shot_durations.txt, in chunks."""
    files = sorted((int(f.stem), f) for f in folder.glob("*.json") if f.stem.isdecimal())
    data = [(file, read_plain(file)) for _, file in files]
    licence, source = (next(filter(None, each), "") for each in zip(*(about(d) for _, d in data)))
    shots = tuple(caption_of(each, str(file)) for file, each in data)
    captions = Captions(shots=shots, licence=licence, source=source)
    lengths = folder / "shot_durations.txt"
    if not lengths.is_file():
        return checked(captions, str(folder))
    counts = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", read_text(lengths))]
    if len(counts) != len(shots) or not sum(counts):
        raise UsageError(f"{lengths}: has {len(counts)} lengths for {len(shots)} captions")
    starts = tuple(sum(counts[:n]) / sum(counts) for n in range(len(counts)))
    return checked(replace(captions, cuts=Cuts(starts, "fractions")), str(folder))


def shotstream_table(file: Path) -> dict[Path, Captions]:
    """The captions in a ShotStream table, by the video that a row names, or its json_path's.

    Raises:
      UsageError, DataError: a row or its JSON file cannot be understood.
    """
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
    except csv.Error as error:
        raise UsageError(f"{file}: cannot be read as a table of CSV: {error}") from None
    found: dict[Path, Captions] = {}
    for row in rows:
        if not row.get("json_path"):
            return found  # another table
        told = file.parent / row["json_path"]
        captions = parse(read_plain(told), str(told))
        if row.get("frame_number"):
            captions = replace(captions, cuts=ranges(row["frame_number"], str(file)))
        named = row.get("video_path")
        video = file.parent / named if named else told.with_suffix("")
        found[video.resolve()] = checked(captions, str(file))
    return found
