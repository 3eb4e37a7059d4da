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

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.storyworld import VOCABULARY
from causalcine_jax.storyworld.lexicon import lexicon

NARROWEST, WIDEST = 40, 100  # columns


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine words", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a page")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    print(json.dumps(lexicon(), indent=2) if flags.json else page())


def page() -> str:
    """The lexicon for people, as wide as the terminal."""
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
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


def _wrapped(label: str, text: str, width: int) -> list[str]:
    """`text` beside a column with its label."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{label:15} ",
        subsequent_indent=" " * 16,
        break_on_hyphens=False,
    )
