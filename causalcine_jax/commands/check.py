"""Says how long a story's film is, where it cuts, and what hinders it, without filming.

    causalcine check examples/demo.yaml
    causalcine check story.yaml --model models/wan-1.3b

Reads a story (.yaml, .json) or a film.json, and of the model its headers and tokenizer. Exit code
0 if the model can film it. Else all faults are listed: code 2 for the story's, 1 for the model's.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.commands.model_flags import model_flag
from causalcine_jax.errors import UsageError, counted, printable

if TYPE_CHECKING:  # else jax would be imported before the story is understood
    from causalcine_jax.film_folder.check import StoryCheck

LONGEST_ID = 24  # characters of a shot's name in the table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine check", description=__doc__)
    parser.add_argument("story", type=Path, metavar="STORY", help="a story, or a film.json")
    model_flag(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    from causalcine_jax.film_folder.record import read_recipe

    recipe = read_recipe(flags.story)
    # After the story is understood: a typing error in it should not wait for jax.
    from causalcine_jax.film_folder.check import check_story

    found = check_story(recipe, flags.model)
    print(report(found), flush=True)
    if found.faults:
        raise UsageError("; ".join(found.faults))


def report(found: "StoryCheck") -> str:
    """The film's length, its shots, its cuts, and how far it is from the model's limits."""
    film, video, model = found.resolved, found.story.video, found.setup.model
    seconds = lambda frame: f"{frame / film.fps:.2f}"
    width = max(4, *(len(_name(shot.id)) for shot in film.shots))
    lines = [
        f"{counted(len(film.shots), 'shot')}, {counted(film.chunks, 'chunk')}, "
        f"{film.frames} frames: "
        f"{seconds(film.frames)} s of {video.width}x{video.height} at {film.fps} frames per second",
        "",
        f"shot  {'name':{width}}  begins at  seconds   chunks  tokens",
    ]
    for number, (shot, tokens) in enumerate(zip(film.shots, found.tokens, strict=True), start=1):
        chunks = f"{shot.first_chunk + 1}-{shot.end_chunk}"
        lines.append(
            f"{number:4}  {_name(shot.id):{width}}  {seconds(shot.first_frame):>7} s  "
            f"{shot.seconds:7.2f}  {chunks:>7}  {tokens:6}"
        )
    cuts = ", ".join(f"{seconds(frame)} s" for frame in film.cut_frames)
    lines += ["", f"cuts at {cuts}" if cuts else "no cut", *film.snapped()]
    most, longest = model.transformer.config.text_len, max(found.tokens)
    lines += [
        f"{model.name} reads {most} tokens of a prompt, the longest here has {longest}",
        _memory(found),
    ]
    return "\n".join(map(printable, lines))


def _memory(found: "StoryCheck") -> str:
    """Which chunks see which, and whether that reaches back to the film's beginning."""
    if found.setup.whole_film:
        return "all frames are made at once, and see each other"
    memory, frames = found.setup.memory, found.resolved.chunks * found.resolved.chunk_frames
    kept = found.setup.pool.frames or frames
    forgets = f", of which {kept} are kept at a time" if kept < frames else ""
    return (
        f"memory {memory.policy}: a chunk sees the {memory.window_chunks} before it and "
        f"{memory.retrieved_frames} older frames of the film's {frames} latent ones{forgets}"
    )


def _name(shot: str) -> str:
    return shot if len(shot) <= LONGEST_ID else f"{shot[: LONGEST_ID - 3]}..."
