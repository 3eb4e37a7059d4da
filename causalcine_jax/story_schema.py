"""What a story file may say: its keys, its limits, and every fault of one that is not a story.

Plain data in, a list of faults out: an unknown key with the nearest known one, a wrong type, an empty caption, a duration
that is missing, doubled or not above zero. All are found in one go. Also reads YAML and JSON without losing doubled keys.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, nearest, raise_faults

SCHEMA = "causalcine/story@1"
STORY_KEYS = ("schema", "global", "seed", "negative", "video", "shots")
VIDEO_KEYS = ("fps", "width", "height")
SHOT_KEYS = ("id", "caption", "seconds", "chunks")

CHUNK_FRAMES = 3  # latent frames
TEMPORAL_STRIDE = 4  # video frames per latent frame, after the first
SIZE_STEP = 16  # pixels per token: a VAE stride of 8 and patches of 2
LONGEST_SHOT = 3600.0  # seconds; longer ones are typing errors
MAX_SEED = 2**32 - 1


def story_faults(data: Any, fewest_shots: int = 1) -> list[str]:
    """Every reason why plain data is no story; empty if it is one."""
    if not isinstance(data, Mapping):
        return [f"must be a mapping with the keys {', '.join(STORY_KEYS)}, not {_kind(data)}"]
    faults = _unknown_keys(data, STORY_KEYS, "")
    if data.get("schema") != SCHEMA:
        found = f"not {data['schema']!r}" if "schema" in data else "which is missing"
        faults.append(f"schema must be '{SCHEMA}', {found}")
    for key in ("global", "negative"):
        if not isinstance(data.get(key, ""), str):
            faults.append(f"{key} must be text, not {_kind(data[key])}")
    seed = data.get("seed", 0)
    if not _is_int(seed) or not 0 <= seed <= MAX_SEED:
        faults.append(f"seed must be a whole number from 0 to {MAX_SEED}, not {seed!r}")
    faults += _video_faults(data.get("video", {}))
    shots = data.get("shots")
    if not isinstance(shots, list | tuple) or len(shots) < fewest_shots:
        found = "which is missing" if shots is None else f"not {'an empty one' if shots == [] else _kind(shots)}"
        return [*faults, f"shots must be a list of at least one shot, {found}"]
    for number, shot in enumerate(shots, start=1):
        faults += _shot_faults(shot, f"shot {number}")
    ids = [str(s.get("id") or f"s{n}") for n, s in enumerate(shots, start=1) if isinstance(s, Mapping)]
    faults += [f"two shots have the id '{name}'" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    return faults


def _video_faults(video: Any) -> list[str]:
    if not isinstance(video, Mapping):
        return [f"video must be a mapping with the keys {', '.join(VIDEO_KEYS)}, not {_kind(video)}"]
    faults = _unknown_keys(video, VIDEO_KEYS, "video: ")
    fps = video.get("fps", 16)
    if not _is_int(fps) or not 1 <= fps <= 240:
        faults.append(f"video: fps must be a whole number from 1 to 240, not {fps!r}")
    for key in ("width", "height"):
        size = video.get(key, SIZE_STEP)
        if not _is_int(size) or size <= 0 or size % SIZE_STEP:
            legal = f" (nearest: {nearest_multiples(size, SIZE_STEP)})" if _is_int(size) and size > 0 else ""
            faults.append(f"video: {key} must be a positive multiple of {SIZE_STEP} pixels, not {size!r}{legal}")
    if ("width" in video) != ("height" in video):
        faults.append("video: give both width and height, or neither for the model's own size")
    return faults


def nearest_multiples(value: int, step: int, offset: int = 0) -> str:
    """The legal values around `value`, those of the form step * n + offset with n >= 1 (n >= 0 with an offset): "832 or 848"."""
    below = (value - offset) // step
    legal = [step * n + offset for n in (below, below + 1) if step * n + offset > 0]
    return " or ".join(str(number) for number in legal)


def _shot_faults(shot: Any, where: str) -> list[str]:
    if not isinstance(shot, Mapping):
        return [f"{where} must be a mapping with the keys {', '.join(SHOT_KEYS)}, not {_kind(shot)}"]
    faults = _unknown_keys(shot, SHOT_KEYS, f"{where}: ")
    name = shot.get("id")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        faults.append(f"{where}: id must be text, not {name!r}")
    caption = shot.get("caption")
    if caption is None:
        faults.append(f"{where}: has no caption")
    elif not isinstance(caption, str):
        faults.append(f"{where}: caption must be text, not {_kind(caption)}")
    elif not caption.strip():
        faults.append(f"{where}: the caption is empty")
    return faults + duration_faults(shot.get("seconds"), shot.get("chunks"), where)


def duration_faults(seconds: Any, chunks: Any, where: str) -> list[str]:
    """What is wrong with a shot's duration; exactly one of the two may be given."""
    if seconds is not None and chunks is not None:
        return [f"{where}: give seconds or chunks, not both"]
    if seconds is None and chunks is None:
        return [f"{where}: has no duration, give seconds or chunks"]
    if seconds is not None:
        ok = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= LONGEST_SHOT
        return [] if ok else [f"{where}: seconds must be a number above 0 and at most {LONGEST_SHOT:g}, not {seconds!r}"]
    most = int(LONGEST_SHOT / 0.75)
    return [] if _is_int(chunks) and 0 < chunks <= most else [f"{where}: chunks must be a whole number from 1 to {most}, not {chunks!r}"]


def read_plain(path: str | Path) -> Any:
    """A YAML or JSON file as plain data; a key given twice is a fault, not a silent choice of the last one."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    doubled: list[str] = []
    data = _parse_json(text, path, doubled) if Path(path).suffix == ".json" else _parse_yaml(text, path, doubled)
    raise_faults(str(path), [f"the key '{key}' is given twice" for key in doubled])
    return data


def _parse_json(text: str, path, doubled: list[str]) -> Any:
    def mapping(pairs):
        doubled.extend(_doubled(key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from None


def _parse_yaml(text: str, path, doubled: list[str]) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            doubled.extend(_doubled(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _doubled(keys: Iterable[Any]) -> list[str]:
    keys = list(keys)
    return [str(key) for key in dict.fromkeys(keys) if keys.count(key) > 1]


def _unknown_keys(data: Mapping, known: tuple[str, ...], where: str) -> list[str]:
    return [f"{where}unknown key '{key}', {nearest(str(key), known)}" for key in data if key not in known]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
