"""The stage that finds burnt-in text: subtitles, titles and watermarks, in pictures of every shot.

It runs only where `filters.most_text` is below 1. RapidOCR (the extra `ocr`) finds boxes of text; a
shot's number is the largest share of a picture that they cover, of what the model would see.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.captioning import SourceVideo
from causalcine_jax.data.video.frames import Clock, Picture, read
from causalcine_jax.data.video.manifest import Row, content_id
from causalcine_jax.data.video.reading import rows_of
from causalcine_jax.data.video.target import Target
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import DataError, UsageError

VERSION = 1  # of the rows; raise it when their meaning changes
PLACES = (0.25, 0.75)  # of a shot: where its pictures are taken
ROWS = 480  # of the pictures, at least: smaller text is not read by anyone either

TextDetector = Callable[[Picture], float]  # a picture -> the share of it that text covers


def check_installed() -> None:
    """`UsageError` if the package that finds text is missing."""
    if importlib.util.find_spec("rapidocr") is None:
        raise UsageError(
            "the filter most_text needs rapidocr: pip install 'causalcine_jax[ocr]', "
            "or leave most_text at 1"
        )


def with_text(work: Work, videos: Sequence[SourceVideo], target: Target) -> list[SourceVideo]:
    """The videos whose shots have "text", the share of a picture that text covers."""
    if work.config.filters.most_text >= 1:
        return list(videos)
    scale = -(-ROWS // target.height)
    tasks: dict[str, _Find] = {}
    for video in videos:
        size = (scale * target.height, scale * target.width)
        row_id = content_id("text", VERSION, video.scan["id"], *size)
        tasks[row_id] = _Find(row_id, video, *size)
    known = []
    for row_id, row in rows_of(work, "text", tasks, _find).items():
        video = tasks[row_id].video
        shots = [
            shot | {"text": share}
            for shot, share in zip(video.scan["shots"], row["text"], strict=True)
        ]
        known.append(replace(video, scan=video.scan | {"shots": shots}))
    return known


@dataclass(frozen=True)
class _Find:
    id: str
    video: SourceVideo
    height: int
    width: int


def _find(task: _Find) -> Row | Reason:
    try:
        shares = _shares(task.video.file, task.video.clock, task)
    except (UsageError, DataError) as error:
        return {"id": task.id, "reason": ["unreadable", str(error)]}
    return {"id": task.id, "text": shares}


def _shares(file: Path, clock: Clock, task: _Find) -> list[float]:
    """The largest share of text in every shot's pictures."""
    wanted = [  # none of a shot too short for a frame at our rate
        sorted({int(shot["first"] + place * (shot["stop"] - shot["first"])) for place in PLACES})
        if shot["stop"] > shot["first"]
        else []
        for shot in task.video.scan["shots"]
    ]
    frames = sorted({frame for each_shot in wanted for frame in each_shot})
    pictures = read(file, clock, [(frame, frame + 1) for frame in frames], task.height, task.width)
    detector = text_detector()
    share = {frame: detector(picture) for frame, picture in zip(frames, pictures, strict=True)}
    return [
        round(max((share[frame] for frame in each_shot), default=0.0), 4) for each_shot in wanted
    ]


@functools.lru_cache(1)
def text_detector() -> TextDetector:
    """RapidOCR's detector of text, once per process. It reads no letters."""
    import logging

    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    engine = RapidOCR(params={"Global.log_level": "error"})

    def share(picture: Picture) -> float:
        found = engine(
            np.ascontiguousarray(picture[..., ::-1]), use_det=True, use_cls=False, use_rec=False
        )
        boxes = [] if found.boxes is None else found.boxes
        return covered(boxes, *picture.shape[:2])

    return share


def covered(boxes: Sequence[np.ndarray], height: int, width: int) -> float:
    """The share of a picture inside any of the boxes, each four corners (x, y)."""
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    for box in boxes:
        draw.polygon([(float(x), float(y)) for x, y in box], fill=1)
    return float(np.mean(np.asarray(mask)))
