"""Captions in plain English: a global caption for the story and a caption per shot.

The global caption names the cast and their species, never their looks.
A caption says who does what, where, when and how it is framed.
One more sentence may name colour and accessory, only where a character first appears.
Later shots leave them out, so the model has to remember them.
Templates and phrases are tables. VOCABULARY is computed from them, so it holds every word.

A shot's prompt is "global caption caption": at most MAX_PROMPT_WORDS words with punctuation.
"""

import re
import string
from collections.abc import Iterator, Sequence

import numpy as np

from causalcine_jax.storyworld.story import Character, WorldShot
from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    COLOURS,
    MAX_CAST,
    MAX_ON_SCREEN,
    NAMES,
    SPECIES,
)

MAX_PROMPT_WORDS = 60

GLOBAL = (
    "A {tone} {kind} about {cast}.",
    "The {tone} {kind} of {cast}.",
    "Meet {cast}.",
    "{cast} in a {tone} {kind}.",
)
TONES = ("gentle", "cheerful", "quiet", "playful", "cosy", "little")
KINDS = ("story", "tale", "film", "cartoon")

SHOT = (
    "{size} {place} {time}: {deed}. {camera}",
    "{size}. {deed} {place} {time}. {camera}",
    "{deed} {place} {time}. {size}. {camera}",
    "{time}, {place}, {deed}. {size}. {camera}",
)
EMPTY_SHOT = (
    "{size} {place} {time}: nobody is here. {camera}",
    "{size}. {time}, {place}, everything is empty. {camera}",
    "Nobody {place} {time}. {size}. {camera}",
)
LOOKS = (
    "{name} is {colour} with a {accessory}.",
    "{name} has {colour} fur and a {accessory}.",
    "{name} is {colour} and wears a {accessory}.",
)
PAIR_LOOKS = LOOKS[:1]  # the shortest: two such sentences must fit into MAX_PROMPT_WORDS

PLACE_PHRASES = {
    "meadow": ("in the meadow", "in a flower meadow"),
    "beach": ("on the beach", "by the sea"),
    "forest": ("in the forest", "among the trees"),
    "mountains": ("in the mountains", "in the snowy mountains"),
    "desert": ("in the desert", "in the sandy desert"),
    "city": ("in the city", "on a city street"),
}
TIME_PHRASES = {
    "day": ("by day", "in bright daylight", "during the day"),
    "sunset": ("at sunset", "in the evening", "as the sun sets"),
    "night": ("at night", "in the moonlight", "under the moon"),
}
# Each phrase for one character, then for two with the same action. {way} is left or right.
ACTION_PHRASES = {
    "walk": (("walks {way}", "walk {way}"), ("strolls {way}", "stroll {way}")),
    "jump": (("jumps", "jump"), ("hops happily", "hop happily")),
    "wave": (("waves", "wave"), ("waves hello", "wave hello")),
    "dance": (("dances", "dance"), ("dances around", "dance around")),
    "sleep": (("sleeps", "sleep"), ("naps", "nap")),
    "look": (("looks around", "look around"), ("peers around", "peer around")),
}
SIZE_PHRASES = {
    "wide": ("wide shot", "long shot"),
    "medium": ("medium shot", "mid shot"),
    "close-up": ("close-up", "close shot"),
}
CAMERA_PHRASES = {
    "static": ("", "The camera rests.", "Still camera."),
    "pan": ("The camera pans {way}.", "Slow pan {way}."),
    "push in": ("The camera pushes in.", "Slow push in."),
    "pull out": ("The camera pulls out.", "Slow pull out."),
}
WAYS = {-1.0: "left", 1.0: "right"}


def words(text: str) -> list[str]:
    """Splits `text` as a word-level tokenizer does: lower-case words and punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def cast_faults(global_caption: str, captions: Sequence[tuple[str, str]]) -> list[str]:
    """Returns a fault wherever a story names more characters than any training film had.

    Args:
      global_caption: the story's global caption.
      captions: (the caption's place in the story, its text).
    """
    named = {where: _named(caption) for where, caption in captions}
    faults = [
        f"{where} names {len(names)} characters ({', '.join(names)}), "
        f"but the model was trained on shots of at most {MAX_ON_SCREEN}"
        for where, names in named.items()
        if len(names) > MAX_ON_SCREEN
    ]
    cast = list(
        dict.fromkeys(
            [*_named(global_caption), *(name for names in named.values() for name in names)]
        )
    )
    if len(cast) > MAX_CAST:
        faults.append(
            f"the story names {len(cast)} characters ({', '.join(cast)}), "
            f"but the model was trained on films of at most {MAX_CAST}"
        )
    return faults


def _named(text: str) -> list[str]:
    """Returns the characters' names in a text, each once."""
    present = dict.fromkeys(words(text))
    return [name for name in NAMES if name.lower() in present]


def write(
    rng: np.random.Generator, cast: Sequence[Character], shots: Sequence[WorldShot], told: bool
) -> tuple[str, list[str]]:
    """Returns the global caption and a caption per shot.

    With `told`, a character's colour and accessory are named in its first shot.
    """
    line = pick(rng, GLOBAL).format(
        tone=pick(rng, TONES), kind=pick(rng, KINDS), cast=_listed([_who(c) for c in cast])
    )
    seen: set[int] = set()
    captions = []
    for shot in shots:
        new = [c for c in shot.cast if c not in seen]
        seen.update(new)
        looks = [_looks(rng, cast[c], len(new)) for c in new]
        captions.append(" ".join([_caption(rng, cast, shot), *(looks if told else [])]))
    return _capital(line), captions


def _caption(rng: np.random.Generator, cast: Sequence[Character], shot: WorldShot) -> str:
    way = WAYS[shot.facing]
    return _sentences(
        pick(rng, SHOT if shot.cast else EMPTY_SHOT).format(
            size=pick(rng, SIZE_PHRASES[shot.size]),
            place=pick(rng, PLACE_PHRASES[shot.place]),
            time=pick(rng, TIME_PHRASES[shot.time]),
            camera=pick(rng, CAMERA_PHRASES[shot.camera]).format(way=way),
            deed=_deed(rng, [_who(cast[c]) for c in shot.cast], shot.actions, way),
        )
    )


def _deed(rng: np.random.Generator, who: list[str], actions: tuple[str, ...], way: str) -> str:
    """Returns who does what. Always draws once per character."""
    phrases = [pick(rng, ACTION_PHRASES[action]) for action in actions]
    if len(who) == 2 and actions[0] == actions[1]:
        return f"{_listed(who)} {phrases[0][1]}".format(way=way)
    return _listed([f"{name} {one}" for name, (one, _) in zip(who, phrases, strict=True)]).format(
        way=way
    )


def _looks(rng: np.random.Generator, character: Character, count: int) -> str:
    template = pick(rng, PAIR_LOOKS if count > 1 else LOOKS)
    return template.format(
        name=character.name, colour=character.colour, accessory=character.accessory
    )


def _who(character: Character) -> str:
    return f"{character.name} the {character.species}"


def _listed(items: list[str]) -> str:
    """Joins as "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _sentences(text: str) -> str:
    """Puts one space between sentences and a capital at the start of each."""
    return " ".join(
        _capital(sentence) + "."
        for part in text.split(". ")
        if (sentence := part.strip().rstrip("."))
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def pick(rng: np.random.Generator, options: Sequence):
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def _all_phrases() -> Iterator[str]:
    """Yields every phrase of every table, placeholders included."""
    yield from (
        *GLOBAL,
        *TONES,
        *KINDS,
        *SHOT,
        *EMPTY_SHOT,
        *LOOKS,
        *NAMES,
        *SPECIES,
        *COLOURS,
        *ACCESSORIES,
        *WAYS.values(),
        "the, and",
    )
    for table in (PLACE_PHRASES, TIME_PHRASES, SIZE_PHRASES, CAMERA_PHRASES):
        yield from (phrase for phrases in table.values() for phrase in phrases)
    yield from (form for phrases in ACTION_PHRASES.values() for pair in phrases for form in pair)


def _without_holes(template: str) -> str:
    return " ".join(text for text, *_ in string.Formatter().parse(template))


VOCABULARY: tuple[str, ...] = tuple(
    sorted({word for phrase in _all_phrases() for word in words(_without_holes(phrase))})
)
