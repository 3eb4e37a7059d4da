"""Captions as plain data or text, in the formats of other projects, and our own.

They say what the whole film shows, what its shots show, and perhaps where they begin. docs/data.md
shows each format; sidecars.py finds the files.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from causalcine_jax.clock import FPS, TEMPORAL_STRIDE
from causalcine_jax.data.video.pace import Pace, times_of
from causalcine_jax.errors import UsageError, shown
from causalcine_jax.story_schema import LONGEST_TEXT
from causalcine_jax.utils.plain_data import parse_plain

RAW = re.compile(r"\[global caption\]|\[per shot caption\]|\[shot cut\]", re.IGNORECASE)
SHOT_KEY = re.compile(r"shot_?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Cuts:
    """Where shots begin: the first at 0.

    unit  frames of the video, seconds, or fractions of its length
    """

    starts: tuple[float, ...]
    unit: str = "frames"

    def seconds(self, pace: Pace) -> list[float]:
        """The starts in seconds from the first frame of a video of this pace."""
        if self.unit == "frames":
            return times_of(self.starts, pace)
        _, length = pace[-1]
        return [start * (length if self.unit == "fractions" else 1) for start in self.starts]


@dataclass(frozen=True)
class Captions:
    """What a video or window shows.

    whole    all of it; opens every prompt
    shots    each shot; empty if only the whole is described
    cuts     where these shots begin, if known
    licence  of the video, as its captions say
    source   the film that the video was cut from: videos of one source are never split
    """

    whole: str = ""
    shots: tuple[str, ...] = ()
    cuts: Cuts | None = None
    licence: str = ""
    source: str = ""

    @property
    def describe(self) -> bool:
        """Whether there are captions: a file may hold a licence or a source alone."""
        return bool(self.whole or any(self.shots))

    def of_shots(self, count: int) -> tuple[str, ...] | None:
        """The captions of `count` shots in order; None if they cannot be told apart."""
        if len(self.shots) == count:
            return self.shots
        if len(self.shots) <= 1:
            return (self.shots or ("",)) * count
        return None

    def at(self, first: float, stop: float, pace: Pace) -> str:
        """The caption of the shot with most of the time from `first` to `stop`, in seconds.

        `pace` says when the video's frames are shown.
        """
        assert self.cuts is not None
        starts = self.cuts.seconds(pace)
        overlaps = [
            min(stop, end) - max(first, start)
            for start, end in zip(starts, [*starts[1:], float("inf")])
        ]
        return self.shots[overlaps.index(max(overlaps))]


LISTS = ("shots", "shot_captions", "prompts", "captions")  # keys of all shots' captions


def parse(data: Any, what: str) -> Captions:
    """Captions from plain data, in any of the formats. `what` names it in errors.

    Raises:
      UsageError: they cannot be understood.
    """
    if isinstance(data, str):
        return parse_text(data)
    if isinstance(data, list) and data:
        return checked(Captions(shots=tuple(caption_of(each, what) for each in data)), what)
    if not isinstance(data, Mapping):
        raise UsageError(f"{what}: holds no captions, but {shown(data)}")
    licence, source = about(data)
    if isinstance(data.get("story"), Mapping):  # film.json of a film made here
        resolved = data.get("resolved")
        cuts = resolved.get("cut_frames") if isinstance(resolved, Mapping) else None
        data, start = {**data["story"], "shot_cut_frames": cuts}, data.get("start")
        if isinstance(start, Mapping) and isinstance(data.get("shots"), list):  # the film's first
            data["shots"] = [{"caption": start.get("caption")}, *data["shots"]]
    text = data.get("caption", data.get("text"))
    if isinstance(text, str) and not any(data.get(key) is not None for key in LISTS):
        told = parse_text(text)
        cuts = _cuts(data, len(told.shots), what) if told.shots else None
        return checked(replace(told, cuts=cuts, licence=licence, source=source), what)
    whole = next(
        (data[key] for key in ("global", "global_caption", "whole_caption") if data.get(key)), ""
    )
    shots = tuple(caption_of(each, what) for each in _listed(data, what))
    cuts = _cuts(data, len(shots), what)
    found = Captions(caption_of(whole, what), shots, cuts, licence, source)
    return checked(found, what)


def about(data: Any) -> tuple[str, str]:
    """The licence and the source that captions name, whatever else is wrong with them."""
    if not isinstance(data, Mapping):
        return "", ""
    story = data.get("story")
    places = (data, story) if isinstance(story, Mapping) else (data,)

    def first(*keys: str) -> str:
        told = [place.get(key) for place in places for key in keys]
        return next((" ".join(str(each).split()) for each in told if each not in (None, "")), "")

    return first("licence", "license"), first("source")


def _listed(data: Mapping, what: str) -> list[Any]:
    """The captions of the shots, or mappings that hold them."""
    for key in LISTS:
        if data.get(key) is not None:
            if not isinstance(data[key], list):
                raise UsageError(f"{what}: {key} must be a list, not {shown(data[key])}")
            return data[key]
    numbered = sorted(
        (int(match[1]), value)
        for key, value in data.items()
        if (match := SHOT_KEY.fullmatch(str(key))) and isinstance(value, str)
    )
    return [value for _, value in numbered]


def caption_of(value: Any, what: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("caption", value.get("text"))
    if not isinstance(value, str):
        raise UsageError(f"{what}: a caption must be text, not {shown(value)}")
    if len(value) > LONGEST_TEXT:
        raise UsageError(f"{what}: a caption has {len(value):,} characters")
    return " ".join(value.split())


def _cuts(data: Mapping, shots: int, what: str) -> Cuts | None:
    """HoloCine's and LongLive's cut positions, ShotStream's ranges, or the lengths of a story."""
    if data.get("shot_cut_frames") is not None:
        return Cuts((0, *_numbers(data["shot_cut_frames"], what)))
    if data.get("switch_frame_indices") is not None:
        latents = _numbers(data["switch_frame_indices"], what)
        frames = [TEMPORAL_STRIDE * latent - 3 for latent in latents]
        return Cuts((0.0, *(frame / FPS for frame in frames)), "seconds")
    if data.get("frame_number") is not None:
        return ranges(data["frame_number"], what)
    listed = data.get("shots")
    if isinstance(listed, list) and all(
        isinstance(shot, Mapping) and isinstance(shot.get("seconds"), int | float)
        for shot in listed
    ):
        ends = [sum(shot["seconds"] for shot in listed[:n]) for n in range(shots)]
        return Cuts(tuple(map(float, ends)), "seconds") if shots else None
    return None


def ranges(value: Any, what: str) -> Cuts:
    """ShotStream's [[start, end], ...], as data or as text, in frames of the video."""
    value = parse_plain(value, what, as_json=True) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(
        isinstance(each, list) and len(each) == 2 for each in value
    ):
        raise UsageError(f"{what}: frame_number must be ranges [[start, end], ...]")
    return Cuts(tuple(_numbers([each[0] for each in value], what)))


def _numbers(value: Any, what: str) -> list[float]:
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value.strip())
    try:
        numbers = [float(each) for each in value]
    except (TypeError, ValueError):
        raise UsageError(f"{what}: cut positions must be numbers, not {shown(value)}") from None
    if numbers != sorted(numbers) or not all(0 <= number < 1e9 for number in numbers):
        raise UsageError(f"{what}: cut positions must ascend from 0, not {shown(value)}")
    return numbers


def checked(found: Captions, what: str) -> Captions:
    """`found`, which holds captions, or else a licence or a source. `UsageError` if it does not."""
    if not found.describe and not found.cuts and (found.licence or found.source):
        return found
    if not found.describe:
        raise UsageError(f"{what}: holds no captions")
    if found.cuts is not None and len(found.cuts.starts) != len(found.shots):
        raise UsageError(
            f"{what}: has {len(found.shots)} captions of shots, and cut positions for "
            f"{len(found.cuts.starts)}"
        )
    return found


def parse_text(text: str) -> Captions:
    """A caption of the whole, or HoloCine's tagged text."""
    tags = [tag.lower() for tag in RAW.findall(text)]
    parts = [" ".join(part.split()) for part in RAW.split(text)]
    if not tags:
        return checked(Captions(caption_of(text, "the text")), "the text")
    told = list(zip(tags, parts[1:]))
    whole = " ".join(part for tag, part in told if tag == "[global caption]")
    shots = tuple(part for tag, part in told if tag != "[global caption]")
    return checked(Captions(whole, shots), "the text")


def to_row(captions: Captions) -> dict[str, Any]:
    licence = {"licence": captions.licence} if captions.licence else {}
    return {"whole": captions.whole, "shots": list(captions.shots), **licence}


def from_row(row: Mapping[str, Any]) -> Captions:
    """Inverse of `to_row`."""
    return Captions(row["whole"], tuple(row["shots"]), licence=row.get("licence", ""))


def from_json(text: str, what: str) -> Any:
    """A line of JSON from a program that may write anything. `UsageError` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{what} is not JSON: {shown(text)}") from None
