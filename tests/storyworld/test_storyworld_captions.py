"""StoryWorld's captions: a closed vocabulary, a bounded length, no looks that memory must carry.

Colour and accessory are named at a character's first appearance or never.
"""

import numpy as np
import pytest

from causalcine_jax.storyworld import (
    ACCESSORIES,
    COLOURS,
    MAX_PROMPT_WORDS,
    VOCABULARY,
    WorldConfig,
    grammar,
    sample_story,
    words,
)

ATTRIBUTE_WORDS = {*COLOURS, *ACCESSORIES, "fur", "wears"}


@pytest.fixture(scope="module")
def stories():
    return [
        sample_story(21, i, world)
        for world in (WorldConfig.base(), WorldConfig.storyworld())
        for i in range(600)
    ]


def test_vocabulary_is_closed_and_fully_used(stories):
    used = {word for story in stories for prompt in story.prompts() for word in words(prompt)}
    assert used == set(VOCABULARY)
    assert len(VOCABULARY) < 400 and list(VOCABULARY) == sorted(set(VOCABULARY))


def longest(templates) -> int:
    return max(len(words(grammar._without_holes(template))) for template in templates)


def test_the_longest_possible_prompt_fits(stories):
    """Adds up each table's longest phrase for the longest shot with two new characters.

    Samples alone could miss the longest prompt.
    """
    who = 3  # NAME the SPECIES
    cast = 3 * who + len(words(", and"))
    line = max(
        len(words(grammar._without_holes(t))) + cast for t in grammar.GLOBAL if "{tone}" not in t
    )
    line = max(
        line,
        *(
            len(words(grammar._without_holes(t)))
            + cast
            + sum(f"{{{hole}}}" in t for hole in ("tone", "kind"))
            for t in grammar.GLOBAL
        ),
    )
    deed = (
        2
        * (
            who
            + max(
                len(words(one.format(way="left")))
                for pairs in grammar.ACTION_PHRASES.values()
                for one, _ in pairs
            )
        )
        + 1
    )
    size = longest(p for name in ("wide", "medium") for p in grammar.SIZE_PHRASES[name])
    place, time = (
        longest(p for phrases in table.values() for p in phrases)
        for table in (grammar.PLACE_PHRASES, grammar.TIME_PHRASES)
    )
    camera = max(
        len(words(p.format(way="left")))
        for phrases in grammar.CAMERA_PHRASES.values()
        for p in phrases
    )
    glue = longest(grammar.SHOT)
    looks = 2 * (longest(grammar.PAIR_LOOKS) + 3)
    bound = line + deed + size + place + time + camera + glue + looks
    assert bound <= MAX_PROMPT_WORDS
    assert max(len(words(p)) for story in stories for p in story.prompts()) <= bound


def test_attributes_are_told_once_where_their_owner_first_appears_or_never(stories):
    for story in stories:
        assert not ATTRIBUTE_WORDS & set(words(story.global_caption))
        seen = set()
        for shot in story.shots:
            new = [story.cast[c] for c in shot.cast if c not in seen]
            seen.update(shot.cast)
            told = [word for word in words(shot.caption) if word in COLOURS or word in ACCESSORIES]
            assert sorted(told) == (
                sorted(a for c in new for a in (c.colour, c.accessory)) if story.told else []
            )
            if not new or not story.told:
                assert not ATTRIBUTE_WORDS & set(words(shot.caption))


def test_a_third_of_the_stories_tell_nothing(stories):
    assert np.mean([not story.told for story in stories]) == pytest.approx(1 / 3, abs=0.05)


def test_a_caption_names_who_is_there_and_how_it_is_framed(stories):
    for story in stories[:200]:
        for c in story.cast:
            assert f"{c.name} the {c.species}" in story.global_caption
        for shot in story.shots:
            text = shot.caption.lower()
            for table, key in (
                (grammar.PLACE_PHRASES, shot.place),
                (grammar.TIME_PHRASES, shot.time),
                (grammar.SIZE_PHRASES, shot.size),
            ):
                assert any(phrase in text for phrase in table[key])
            named = [c.name for c in story.cast if c.name.lower() in words(text)]
            assert sorted(named) == sorted(story.cast[c].name for c in shot.cast)


def test_captions_are_sentences(stories):
    for story in stories[:200]:
        for text in (story.global_caption, *story.captions):
            assert (
                text[0].isupper()
                and text.endswith(".")
                and "  " not in text
                and ".." not in text
                and "{" not in text
                and " ." not in text
            )
