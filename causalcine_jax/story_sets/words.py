"""A caption's words, and what of them is compared."""

import re


def words(text: str) -> list[str]:
    """The words in lower case; "it's" and "bird's-eye" are one word each."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    """All runs of three words."""
    held = words(text)
    return set(zip(held, held[1:], held[2:], strict=False))


def names(text: str, noun: str) -> bool:
    """Whether `noun` stands in `text` as a word or words, also in plural or possessive."""
    return bool(re.search(rf"(?<!\w){re.escape(noun)}(?:['’]?s)?(?!\w)", text, re.IGNORECASE))
