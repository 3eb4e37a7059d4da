"""The schema of a story file: its keys, its limits, and a list of every fault.

Takes plain data (from plain_data.py) and returns all faults together: an unknown key with the
nearest known one, a wrong type, an empty caption, a duration that is missing, doubled or not above
zero. It never raises, whatever the data.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from causalcine_jax.clock import FPS
from causalcine_jax.errors import MOST_FAULTS, nearest, shown

SCHEMA = "causalcine/story@1"
STORY_KEYS = ("schema", "global", "seed", "negative", "video", "shots")
VIDEO_KEYS = ("fps", "width", "height")
SHOT_KEYS = ("id", "caption", "seconds", "chunks", "seed")

SIZE_STEP = 16  # pixels per token: a VAE stride of 8 and patches of 2
LARGEST_SIDE = 16384  # pixels; H.264 and its players support no more
LONGEST_TEXT = 20_000  # characters; the longest prompts that models read have some thousand
LONGEST_SHOT = 3600.0  # seconds; a longer one is a typing error
MAX_SEED = 2**32 - 1


def story_faults(data: Any, fewest_shots: int = 1) -> list[str]:
    """Every reason why the plain data `data` is not a story; empty if it is one."""
    if not isinstance(data, Mapping):
        return [f"must be a mapping with the keys {', '.join(STORY_KEYS)}, not {_kind(data)}"]
    faults = _unknown_keys(data, STORY_KEYS, "")
    if data.get("schema") != SCHEMA:
        found = f"not {shown(data['schema'])}" if "schema" in data else "which is missing"
        faults.append(f"schema must be '{SCHEMA}', {found}")
    for key in ("global", "negative"):
        faults += _text_faults(data.get(key, ""), key)
    faults += _seed_faults(data.get("seed", 0), "seed")
    faults += _video_faults(data.get("video", {}))
    shots = data.get("shots")
    if not isinstance(shots, list | tuple) or len(shots) < fewest_shots:
        found = (
            "which is missing"
            if shots is None
            else f"not {'an empty one' if shots == [] else _kind(shots)}"
        )
        return [*faults, f"shots must be a list of at least one shot, {found}"]
    for number, shot in enumerate(shots, start=1):
        faults += _shot_faults(shot, f"shot {number}")
    ids = Counter(
        _id(shot, number) for number, shot in enumerate(shots, start=1) if isinstance(shot, Mapping)
    )
    return faults + [
        f"two shots have the id {shown(name)}" for name, count in ids.items() if count > 1
    ]


def _id(shot: Mapping, number: int) -> str:
    given = shot.get("id")
    return given if given and isinstance(given, str) else f"s{number}"


def _seed_faults(seed: Any, what: str) -> list[str]:
    if _is_int(seed) and 0 <= seed <= MAX_SEED:
        return []
    return [f"{what} must be a whole number from 0 to {MAX_SEED}, not {shown(seed)}"]


def _text_faults(value: Any, what: str) -> list[str]:
    if not isinstance(value, str):
        return [f"{what} must be text, not {_kind(value)}"]
    if len(value) > LONGEST_TEXT:
        return [f"{what} has {len(value):,} characters, at most {LONGEST_TEXT:,} are read"]
    try:
        value.encode()
    except UnicodeEncodeError:
        return [f"{what} holds half a character (a lone surrogate such as \\ud800): write it again"]
    return []


def _video_faults(video: Any) -> list[str]:
    if not isinstance(video, Mapping):
        return [
            f"video must be a mapping with the keys {', '.join(VIDEO_KEYS)}, not {_kind(video)}"
        ]
    faults = _unknown_keys(video, VIDEO_KEYS, "video: ")
    fps = video.get("fps", FPS)
    if not _is_int(fps) or not 1 <= fps <= 240:
        faults.append(f"video: fps must be a whole number from 1 to 240, not {shown(fps)}")
    for key in ("width", "height"):
        size = video.get(key, SIZE_STEP)
        if _is_int(size) and size > LARGEST_SIDE:
            faults.append(f"video: {key} must be at most {LARGEST_SIDE} pixels, not {shown(size)}")
        elif not _is_int(size) or size <= 0 or size % SIZE_STEP:
            legal = (
                f" (nearest: {nearest_multiples(size, SIZE_STEP)})"
                if _is_int(size) and size > 0
                else ""
            )
            faults.append(
                f"video: {key} must be a positive multiple of {SIZE_STEP} pixels, "
                f"not {shown(size)}{legal}"
            )
    if ("width" in video) != ("height" in video):
        faults.append("video: give both width and height, or neither for the model's own size")
    return faults


def size_faults(height: int, width: int, steps: tuple[int, int]) -> list[str]:
    """The sides of frames that are no positive multiples of their `steps` in pixels."""
    return [
        f"{side} must be a positive multiple of {step} pixels, not {size} "
        f"(nearest: {nearest_multiples(max(size, 1), step)})"
        for side, size, step in zip(("height", "width"), (height, width), steps, strict=True)
        if size < 1 or size % step
    ]


def nearest_multiples(value: int, step: int, offset: int = 0) -> str:
    """The values nearest to `value` of the form step * n + offset, such as "832 or 848".

    n >= 1, or n >= 0 with an offset.
    """
    below = (value - offset) // step
    legal = [step * n + offset for n in (below, below + 1) if step * n + offset > 0]
    return " or ".join(str(number) for number in legal)


def _shot_faults(shot: Any, where: str) -> list[str]:
    if not isinstance(shot, Mapping):
        return [
            f"{where} must be a mapping with the keys {', '.join(SHOT_KEYS)}, not {_kind(shot)}"
        ]
    faults = _unknown_keys(shot, SHOT_KEYS, f"{where}: ")
    name = shot.get("id")
    if name is not None and (not isinstance(name, str) or blank(name)):
        faults.append(f"{where}: id must be text, not {shown(name)}")
    elif name is not None:
        faults += _text_faults(name, f"{where}: id")
    caption = shot.get("caption")
    if caption is None:
        faults.append(f"{where}: has no caption")
    elif isinstance(caption, str) and blank(caption):
        faults.append(f"{where}: the caption is empty")
    else:
        faults += _text_faults(caption, f"{where}: caption")
    if shot.get("seed") is not None:
        faults += _seed_faults(shot["seed"], f"{where}: seed")
    return faults + duration_faults(shot.get("seconds"), shot.get("chunks"), where)


def duration_faults(seconds: Any, chunks: Any, where: str) -> list[str]:
    """The faults of a shot's duration; exactly one of the two must be given."""
    if seconds is not None and chunks is not None:
        return [f"{where}: give seconds or chunks, not both"]
    if seconds is None and chunks is None:
        return [f"{where}: has no duration, give seconds or chunks"]
    if seconds is not None:
        ok = (
            isinstance(seconds, int | float)
            and not isinstance(seconds, bool)
            and 0 < seconds <= LONGEST_SHOT
        )
        most = f"at most {LONGEST_SHOT:g}"
        fault = f"{where}: seconds must be a number above 0 and {most}, not {shown(seconds)}"
        return [] if ok else [fault]
    longest = int(LONGEST_SHOT / 0.75)
    return (
        []
        if _is_int(chunks) and 0 < chunks <= longest
        else [f"{where}: chunks must be a whole number from 1 to {longest}, not {shown(chunks)}"]
    )


def blank(text: str) -> bool:
    """Whether nothing of it is seen: it is spaces, and control or zero-width characters."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def _unknown_keys(data: Mapping, known: tuple[str, ...], where: str) -> list[str]:
    unknown = [key for key in data if key not in known]
    # Only MOST_FAULTS are printed, so only those need a hint.
    hints = [
        f", {nearest(key if isinstance(key, str) else shown(key), known)}"
        for key in unknown[:MOST_FAULTS]
    ]
    return [
        f"{where}unknown key {shown(key)}{hint}"
        for key, hint in zip_longest(unknown, hints, fillvalue="")
    ]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    return names.get(type(value), type(value).__name__)
