"""Checks that the model can read a story's prompts; one message lists every fault."""

import difflib
from collections.abc import Iterable

from causalcine_jax.errors import LONGEST_NAME, MOST_FAULTS, raise_faults, shown
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.story import Story
from causalcine_jax.storyworld.grammar import VOCABULARY, cast_faults

WORD_LEVEL = 10_000  # a vocabulary smaller than this is one of whole words, worth listing


def check_prompts(
    prompts: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    text_len: int,
    story: Story | None = None,
) -> None:
    """`UsageError` listing every prompt with too many tokens, unknown words or too many characters.

    prompts   (where it occurs, such as "shot 's2'", and its text as the encoder reads it)
    text_len  tokens that the model reads, including the end token
    story     the prompts' story, to count its characters for a model of StoryWorld
    """
    faults: list[str] = []
    unknown: dict[str, str] = {}
    for where, text in prompts:
        count = tokenizer.count(text)
        if count > text_len:
            faults.append(
                f"{where}: the prompt has {count} tokens, the model reads at most {text_len} "
                "(global caption and one end token included)"
            )
        for word in tokenizer.unknown_words(text):
            unknown.setdefault(word, where)
    if unknown:
        known = known_words(tokenizer)
        listed = ", ".join(
            f"{shown(word)} in {where}{_hint(word, known)}"
            for word, where in list(unknown.items())[:MOST_FAULTS]
        )
        if len(unknown) > MOST_FAULTS:
            listed += f" and {len(unknown) - MOST_FAULTS} more"
        vocabulary = _vocabulary(tokenizer, known)
        faults.append(f"the model does not know {listed}{vocabulary}")
    if story is not None and knows_storyworld_only(tokenizer):
        faults += cast_faults(
            story.global_caption,
            [
                (f"shot {shown(s.id or f's{n}')}", s.caption)
                for n, s in enumerate(story.shots, start=1)
            ],
        )
    raise_faults("story", faults)


def _vocabulary(tokenizer: Tokenizer, known: list[str]) -> str:
    if not known:
        return ""
    if knows_storyworld_only(tokenizer):
        return "; causalcine words lists what it knows"
    more = f" and {len(known) - MOST_FAULTS} more" if len(known) > MOST_FAULTS else ""
    return f"; it knows only: {' '.join(known[:MOST_FAULTS])}{more}"


def knows_storyworld_only(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has all words of StoryWorld's grammar, and few others."""
    words = {word for word in VOCABULARY if word.isalpha()}
    return tokenizer.size < 2 * len(VOCABULARY) and words <= set(tokenizer.known_words())


def known_words(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary of a word-level tokenizer; empty for tokenizers of word pieces."""
    return (
        [w for w in tokenizer.known_words() if any(c.isalnum() for c in w)]
        if tokenizer.size < WORD_LEVEL
        else []
    )


def _hint(word: str, known: list[str]) -> str:
    close = (
        []
        if len(word) > LONGEST_NAME
        else difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    )
    return f" (did you mean '{close[0]}'?)" if close else ""
