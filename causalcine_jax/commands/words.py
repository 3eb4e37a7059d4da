"""What StoryWorld's models understand: every word by kind, and captions made of them.

    causalcine words            as a page
    causalcine words --json     the same as data

A word that is not listed has no id, so a small model cannot be asked for it. Models with UMT5's
tokenizer, such as Wan2.1's, read any text.
"""

import argparse
import json
import shutil
import textwrap
from typing import Any

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.storyworld import MAX_PROMPT_WORDS, VOCABULARY, WORLDS, grammar, sample_story
from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    COLOURS,
    MAX_CAST,
    MAX_ON_SCREEN,
    NAMES,
    SPECIES,
)

EXAMPLES = ((0, 6), (0, 5))  # seed and index of the stories whose captions are shown
WIDEST = 100  # columns


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine words", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a page")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    print(json.dumps(lexicon(), indent=2) if flags.json else page())


def lexicon() -> dict[str, Any]:
    """All words, the kinds they fall into, how many a story may use, and example stories."""
    return {
        "words": list(VOCABULARY),
        "kinds": kinds(),
        "limits": {
            "characters in a story": MAX_CAST,
            "characters in a shot": MAX_ON_SCREEN,
            "words and marks in a prompt (global and caption)": MAX_PROMPT_WORDS,
        },
        "examples": [_example(seed, index) for seed, index in EXAMPLES],
    }


def kinds() -> dict[str, list[str] | dict[str, list[str]]]:
    """Each kind of word with what it holds: words, or things and the phrases that say each."""
    told = {
        "characters": list(NAMES),
        "species": list(SPECIES),
        "colours": list(COLOURS),
        "accessories": list(ACCESSORIES),
        "places": _phrases(grammar.PLACE_PHRASES),
        "times": _phrases(grammar.TIME_PHRASES),
        "actions": {
            action: [form.format(way="left") for pair in pairs for form in pair]
            for action, pairs in grammar.ACTION_PHRASES.items()
        },
        "shot sizes": _phrases(grammar.SIZE_PHRASES),
        "camera moves": _phrases(grammar.CAMERA_PHRASES),
        "directions": list(grammar.WAYS.values()),
        "tones": list(grammar.TONES),
        "kinds of story": list(grammar.KINDS),
    }
    text = " ".join(phrase for kind in told.values() for phrase in _said(kind))
    rest = sorted(set(VOCABULARY) - set(grammar.words(text)))
    return {**told, "other words": [word for word in rest if word.isalnum()]}


def page() -> str:
    """The lexicon for people, as wide as the terminal."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    all_words = lexicon()
    known = sum(map(str.isalnum, VOCABULARY))
    lines = [f"StoryWorld's models know {known} words. All of them, by kind:", ""]
    for kind, held in all_words["kinds"].items():
        if isinstance(held, list):
            lines += _wrapped(kind, ", ".join(held), width)
        else:
            rows = [f"{thing}: {', '.join(phrases)}" for thing, phrases in held.items()]
            for place, row in enumerate(rows):
                lines += _wrapped("" if place else kind, row, width)
    lines.append("")
    lines += [f"at most {most} {what}" for what, most in all_words["limits"].items()]
    for example in all_words["examples"]:
        lines += ["", *_wrapped("global", example["global"], width)]
        for number, caption in enumerate(example["captions"], start=1):
            lines += _wrapped(f"shot {number}", caption, width)
    return "\n".join(lines)


def _phrases(table: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {
        thing: [phrase.format(way="right") for phrase in phrases if phrase]
        for thing, phrases in table.items()
    }


def _said(kind: list[str] | dict[str, list[str]]) -> list[str]:
    return kind if isinstance(kind, list) else [phrase for said in kind.values() for phrase in said]


def _example(seed: int, index: int) -> dict[str, Any]:
    story = sample_story(seed, index, WORLDS["base"]())
    return {"global": story.global_caption, "captions": list(story.captions)}


def _wrapped(label: str, text: str, width: int) -> list[str]:
    """`text` beside a column with its label."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{label:15} ",
        subsequent_indent=" " * 16,
        break_on_hyphens=False,
    )
