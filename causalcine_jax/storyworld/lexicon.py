"""Every word that StoryWorld's models understand, by kind, and captions made of them."""

from collections.abc import Mapping
from typing import Any

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
    told: dict[str, list[str] | dict[str, list[str]]] = {
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
    text = " ".join(phrase for kind in told.values() for phrase in _flat(kind))
    rest = sorted(set(VOCABULARY) - set(grammar.words(text)))
    return {**told, "other words": [word for word in rest if word.isalnum()]}


def _phrases(table: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {
        thing: [phrase.format(way="right") for phrase in phrases if phrase]
        for thing, phrases in table.items()
    }


def _flat(kind: list[str] | dict[str, list[str]]) -> list[str]:
    return kind if isinstance(kind, list) else [phrase for said in kind.values() for phrase in said]


def _example(seed: int, index: int) -> dict[str, Any]:
    story = sample_story(seed, index, WORLDS["base"]())
    return {"global": story.global_caption, "captions": list(story.captions)}
