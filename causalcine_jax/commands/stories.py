"""Checks a set of stories, such as the benchmark's, and writes it for other systems.

    causalcine stories stories/memory-100.yaml
    causalcine stories stories/memory-100.yaml --tokenizer google/umt5-xxl
    causalcine stories stories/memory-100.yaml --to holocine --out outputs/holocine

A set is a file of labels and a folder of stories beside it. The check compares captions to labels:
lengths, tokens, cuts, who is seen where, repetitions, balance, and the hash of each file. Exit code
0 if all is well. Else every fault is printed, a line each, and the code is 2.
"""

import argparse
import statistics
from pathlib import Path

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.errors import UsageError, printable
from causalcine_jax.story_sets.formats import FORMATS, export
from causalcine_jax.story_sets.lint import CountTokens, estimated_tokens, set_lint
from causalcine_jax.story_sets.story_set import StorySet, check_hashes, read_set, write_hashes
from causalcine_jax.utils.atomic_file import file_hash


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine stories", description=__doc__)
    parser.add_argument("set", type=Path, metavar="SET", help="the set's file of labels (.yaml)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="UMT5's tokenizer.json, or a folder with it (default: tokens are estimated)",
    )
    parser.add_argument(
        "--to", choices=FORMATS, help="write the set as prompt files of this system into --out"
    )
    parser.add_argument("--out", type=Path, help="folder for the files of --to; made if missing")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are in --out already"
    )
    parser.add_argument(
        "--write-hashes",
        action="store_true",
        help="write the file of hashes anew, after a set of your own has changed",
    )
    flags = parser.parse_args(arguments)
    if (flags.to is None) != (flags.out is None):
        parser.error("--to and --out belong together: give both or neither")
    return flags


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    stories = read_set(flags.set)
    count_tokens = estimated_tokens
    if flags.tokenizer is not None:
        from causalcine_jax.models.text.tokenizer import Tokenizer

        count_tokens = Tokenizer.load(flags.tokenizer).count
    if faults := set_lint(stories, count_tokens):
        print("\n".join(map(printable, faults)))
        raise UsageError(f"{flags.set}: {len(faults)} fault{'s' * (len(faults) > 1)}, see above")
    if flags.write_hashes:
        write_hashes(stories)
    check_hashes(stories)
    print("\n".join(map(printable, report(stories, count_tokens))), flush=True)
    if flags.to is not None:
        files = export(stories, flags.to, flags.out, overwrite=flags.overwrite)
        print(f"{len(files)} files for {flags.to} in {printable(str(flags.out))}")


def report(stories: StorySet, count_tokens: CountTokens) -> list[str]:
    """The set in a few lines: size, words, tokens, balance, hash."""
    captions = [text for each in stories.stories for text in each.captions]
    lengths = [len(text.split()) for text in captions]
    most = max(
        count_tokens(each.story.prompt(shot))
        for each in stories.stories
        for shot in each.story.shots
    )
    guessed = " (estimated)" if count_tokens is estimated_tokens else ""
    balance = [
        f"{label}: " + ", ".join(f"{value} {count}" for value, count in counts.items())
        for label, counts in stories.balance.items()
    ]
    return [
        f"{stories.name}: {len(stories.stories)} stories, {len(captions)} captions",
        f"words of a caption: {min(lengths)} to {max(lengths)}, "
        f"median {statistics.median(lengths):g}",
        f"tokens of a prompt: at most {most}{guessed}",
        *balance,
        f"sha256 {file_hash(stories.hashes)}",
    ]
