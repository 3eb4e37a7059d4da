"""A film as a small moving picture for a page: every second frame, its shot's caption below.

    make demo
    python examples/moving_picture.py outputs/demo --out docs/demo.webp

Reads film.mp4 and film.json, as launch/generate.py leaves them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from causalcine_jax.render.mp4 import read_film
from causalcine_jax.render.typography import PAPER, TEXT, font, shot_colour, wrap

WIDTH, STRIP = 480, 52  # of the picture, and of the caption's place below the frame
EVERY = 2  # frames: half the film's rate, half the bytes
QUALITY = 60


def pages(folder: Path) -> tuple[list[Image.Image], int]:
    """The picture's frames and how many milliseconds each stands."""
    record = json.loads((folder / "film.json").read_text("utf-8"))
    shots, fps = record["resolved"]["shots"], record["story"]["video"]["fps"]
    film = read_film(folder / "film.mp4")
    starts = [0, *record["resolved"]["cut_frames"]]
    shot_of = np.searchsorted(starts, np.arange(len(film)), side="right") - 1
    drawn = [
        page(film[n], shots[shot_of[n]]["caption"], int(shot_of[n]))
        for n in range(0, len(film), EVERY)
    ]
    return drawn, round(1000 * EVERY / fps)


def page(frame: np.ndarray, caption: str, shot: int) -> Image.Image:
    height = round(WIDTH * frame.shape[0] / frame.shape[1])
    picture = Image.new("RGB", (WIDTH, height + STRIP), PAPER)
    picture.paste(Image.fromarray(frame).resize((WIDTH, height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((10, height + 10, 14, height + STRIP - 10), shot_colour(shot))
    for number, line in enumerate(wrap(caption, font(14), WIDTH - 36, most=2)):
        draw.text((24, height + 8 + 18 * number), line, TEXT, font(14))
    return picture


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("film", type=Path, help="folder of a film: film.mp4 and film.json")
    parser.add_argument("--out", type=Path, default=Path("moving.webp"), help=".webp or .gif")
    flags = parser.parse_args(arguments)
    (first, *rest), stands = pages(flags.film)
    first.save(
        flags.out, save_all=True, append_images=rest, duration=stands, loop=0, quality=QUALITY
    )
    print(f"{flags.out}: {1 + len(rest)} frames, {flags.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
