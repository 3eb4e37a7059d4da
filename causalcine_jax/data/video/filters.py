"""Which shots and windows are kept. Every threshold is a field of `Filters`.

A reason for dropping is (kind, words): the kind is counted, the words say what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.bars import Part
from causalcine_jax.data.video.manifest import Row, content_id
from causalcine_jax.errors import UsageError, nearest, raise_faults, range_faults, shown
from causalcine_jax.film.record_schema import field_faults
from causalcine_jax.utils.plain_data import read_plain

MOST_BITS = 31  # of three hashes of 256: then duplicates.py finds them
LIMITS = {  # of each threshold: a percentage in place of a share would drop all, or nothing
    "least_seen": (0, 1),
    "least_size": (0,),
    "dark": (0, 255),
    "static": (0, 255),
    "most_text": (0, 1),
    "duplicate_bits": (-1, MOST_BITS),
    "least_shots": (1,),
    "duplicate_cosine": (0, 1),
}


@dataclass(frozen=True)
class Filters:
    """Thresholds.

    least_seen      fraction of a video's picture that the model's shape keeps
    least_size      height of what it keeps, divided by the model's height
    dark            mean brightness of a shot, 0 to 255: darker ones are dropped
    static          mean change in a quarter of a second, 0 to 255: stiller ones are dropped
    most_text       share of a picture that burnt-in text may cover; 1 does not look for text
    duplicate_bits  of 768: shots of two videos that differ in as many bits or fewer are the same;
                    -1 compares none
    least_shots     shots of a window
    duplicate_cosine  of the embeddings of two videos' shots: from it on they are the same, where
                    a network embeds them
    """

    least_seen: float = 0.5
    least_size: float = 0.5
    dark: float = 16.0
    static: float = 0.25
    most_text: float = 1.0
    duplicate_bits: int = 24
    least_shots: int = 1
    duplicate_cosine: float = 0.9

    def __post_init__(self):
        raise_faults("prepare", field_faults(Filters, vars(self), "filters"))
        ranges = (range_faults(name, getattr(self, name), *LIMITS[name]) for name in LIMITS)
        raise_faults("filters", [fault for faults in ranges for fault in faults])

    @classmethod
    def read(cls, file: Path) -> "Filters":
        """Those of a YAML or JSON file, which names the ones that are not the default."""
        data = read_plain(file)
        if not isinstance(data, Mapping):
            raise UsageError(f"{file}: must name thresholds, such as dark: 20")
        known = [field.name for field in fields(cls)]
        raise_faults(
            str(file),
            [
                f"unknown filter {shown(name)}, {nearest(str(name), known)}"
                for name in data
                if name not in known
            ],
        )
        return cls(**data)


def video_reason(
    video: Row, picture: Part, height: int, width: int, filters: Filters
) -> Reason | None:
    """Why no shot of a video can be used, if so.

    Args:
      video: a row of probe.py.
      picture: the part of its frames that is inside of black bars.
      height, width: of the model's films.
    """
    left, top, right, bottom = picture
    columns, lines = (right - left) * video["width"], (bottom - top) * video["height"]
    size, shape = f"{columns:.0f}x{lines:.0f}", width / height
    rows = min(lines, columns / shape)
    kept = rows * rows * shape / (lines * columns)
    if kept < filters.least_seen:
        return "shape", (
            f"{size}: the model's shape shows {kept:.0%} of it, "
            f"at least {filters.least_seen:.0%} is asked for"
        )
    if rows < filters.least_size * height:
        return "small", (
            f"{size}: {rows:.0f} rows are left for the model's "
            f"{height}, at least {filters.least_size * height:.0f} are asked for"
        )
    return None


def shot_reason(shot: Row, shortest: int, filters: Filters) -> Reason | None:
    """Why a shot of scan.py cannot be used, if so. `shortest` is in frames."""
    length = shot["stop"] - shot["first"]
    if length < shortest:
        return "short shot", f"{length} frames, a chunk needs {shortest}"
    if shot["luma"] < filters.dark:
        return "dark", f"mean brightness {shot['luma']:.1f}, at least {filters.dark:g} is asked for"
    if shot["motion"] < filters.static:
        return (
            "static",
            f"changes by {shot['motion']:.2f}, at least {filters.static:g} is asked for",
        )
    if shot.get("text", 0) > filters.most_text:
        return "text", (
            f"text covers {shot['text']:.1%} of a picture, at most {filters.most_text:.1%} may"
        )
    return None


def is_held_out(source: str, fraction: float) -> bool:
    """Whether the films of `source` are held out: it stays so when videos are added."""
    return int(content_id("split", source)[:12], 16) < fraction * 16**12


def reject(stage: str, file: str, reason: Reason, **about: Any) -> Row:
    """A row of the page of rejects."""
    return {"stage": stage, "file": file, "kind": reason[0], "reason": reason[1], **about}
