"""Medium shots for readers who never saw a film: what do they recognise?

    python -m experiments.readers make --out OUT       # OUT/01.png ..., questions.md, key.json
    python -m experiments.readers score --out OUT --answers ANNA.json ...

Each picture shows six frames of one shot, of a film by the model or of a true film, in random
order. No two are of the same story: a true film would give away what the model's shows. A reader
answers species, colour, accessory and action of each without the key, and saves them as
{"01": {"species": ..., "colour": ..., "accessory": ..., "action": ...}}.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from causalcine_jax.cli import ArgumentParser, run
from causalcine_jax.errors import DataError, UsageError, check_choice
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.config import HELD_OUT_SEED
from causalcine_jax.evaluation.storyworld.free_films import filmed, stories_apart
from causalcine_jax.evaluation.storyworld.judge import CLASSES
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.evaluation.tables import markdown_table
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.render.mp4 import enlarged
from causalcine_jax.render.typography import PAPER, save_png
from causalcine_jax.storyworld import WorldConfig, WorldShot, WorldStory
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.plain_data import read_plain

MODEL = "causalcine_jax/weights/storyworld-student"
SHOTS, FRAMES, COLUMNS, GAP, SCALE = 10, 6, 3, 8, 6
CHOICES = {name: CLASSES[name] for name in ("species", "colour", "accessory", "action")}
BY_MODEL, TRUE = "by the model", "true films"


@dataclass(frozen=True)
class ShownShot:
    """A medium shot of one character, in a story of its own."""

    story: WorldStory
    shot: WorldShot

    @property
    def answers(self) -> dict[str, str]:
        who = self.story.cast[self.shot.cast[0]]
        looks = {name: getattr(who, name) for name in ("species", "colour", "accessory")}
        return looks | {"action": self.shot.actions[0]}

    def picture(self, video: UInt8[np.ndarray, "t h w 3"]) -> Image.Image:
        """Six frames of the shot, three film frames apart: two thirds of the slowest action."""
        frames = video[self.shot.frames.start :][: FRAMES * 3 : 3]
        height, width = (SCALE * side for side in video.shape[1:3])
        rows = -(-FRAMES // COLUMNS)
        page = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP), PAPER)
        for number, frame in enumerate(frames):
            row, column = divmod(number, COLUMNS)
            place = column * (width + GAP), row * (height + GAP)
            page.paste(Image.fromarray(enlarged(frame, SCALE)), place)
        return page


def shown_shots(world: WorldConfig, count: int) -> list[ShownShot]:
    """One shot of each of the first held-out stories that have one, and whose captions tell looks.

    Of others, the model cannot know what the key says.
    """
    fits = lambda shot: shot.size == "medium" and len(shot.cast) == 1 and shot.chunks > 1
    last = (
        ShownShot(story, fitting[-1])
        for story in stories_apart(world, HELD_OUT_SEED, 10 * count)
        if story.told and (fitting := [*filter(fits, story.shots)])
    )
    return [*itertools.islice(last, count)]


def make(out: Path, model_folder: str) -> None:
    """Writes pictures, questions and key. Films are made under the model's own settings."""
    model = load_model(model_folder)
    every, rng = shown_shots(WorldConfig.base(), 2 * SHOTS), np.random.default_rng(HELD_OUT_SEED)
    shown, true = every[:SHOTS], every[SHOTS:]
    engine = BatchRollout(model, shown[0].story.world, model.sampler, HELD_OUT_SEED)
    stories = [one.story for one in shown]
    films = [film for _, film in filmed(engine, stories, model.memory, len(stories))]
    pictures = [(BY_MODEL, one, film) for one, film in zip(shown, films, strict=True)]
    pictures += [(TRUE, one, true_film(one.story)) for one in true]
    key = {}
    out.mkdir(parents=True, exist_ok=True)
    for number, which in enumerate(rng.permutation(len(pictures)), start=1):
        row, one, film = pictures[which]
        save_png(out / f"{number:02}.png", one.picture(film))
        key[f"{number:02}"] = {"film": row} | one.answers
    write_text(out / "key.json", json.dumps(key, indent=1) + "\n")
    options = "\n".join(f"* {name}: {', '.join(words)}" for name, words in CHOICES.items())
    write_text(
        out / "questions.md",
        f"Each picture shows {FRAMES} frames of one shot, three film frames apart, row by row. "
        f"One character is in it. What is it, and what does it do?\n\n{options}\n",
    )


def score(out: Path, answers: list[Path]) -> str:
    """The share of right answers, and of shots of which all four are right, by film and reader.

    Raises:
      DataError: an answer is missing, or is none of the words asked for.
    """
    key = read_plain(out / "key.json")
    rows = []
    for path in answers:
        given = read_plain(path)
        for number in key:
            for name, words in CHOICES.items():
                if given.get(number, {}).get(name) not in words:
                    raise DataError(f"{path}: {number} has no {name} of {', '.join(words)}")
        for film in (BY_MODEL, TRUE):
            numbers = [number for number, entry in key.items() if entry["film"] == film]
            right = {
                name: [given[number][name] == key[number][name] for number in numbers]
                for name in CHOICES
            }
            whole = [all(of) for of in zip(*right.values(), strict=True)]
            cells = [f"{sum(of)} of {len(of)}" for of in (*right.values(), whole)]
            rows.append((path.stem, film, *cells))
    return "\n".join(markdown_table(("reader", "films", *CHOICES, "all four"), rows))


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="experiments.readers", description=__doc__)
    parser.add_argument("what", help="make or score")
    parser.add_argument("--answers", nargs="+", type=Path, default=[], help="of one reader each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=MODEL)
    args = parser.parse_args(arguments)
    check_choice("what", args.what, ("make", "score"))
    if args.what == "score" and not args.answers:
        raise UsageError("score needs --answers, a file of each reader")
    if args.what == "make":
        make(args.out, args.model)
    else:
        print(score(args.out, args.answers))


if __name__ == "__main__":
    run(main)
