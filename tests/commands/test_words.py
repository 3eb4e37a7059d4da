"""`causalcine words`: every word of StoryWorld, under its kind, and captions made of them."""

import json

import pytest

from causalcine_jax.commands.words import main, page
from causalcine_jax.errors import UsageError
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.storyworld import (
    ACCESSORIES,
    ACTIONS,
    CAMERAS,
    COLOURS,
    NAMES,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
    VOCABULARY,
    grammar,
)
from causalcine_jax.storyworld.lexicon import kinds, lexicon

HELD = {
    "characters": NAMES, "species": SPECIES, "colours": COLOURS, "accessories": ACCESSORIES,
    "places": PLACES, "times": TIMES, "actions": ACTIONS, "shot sizes": SIZES,
    "camera moves": CAMERAS, "directions": ("left", "right"), "tones": grammar.TONES,
    "kinds of story": grammar.KINDS,
}  # fmt: skip


@pytest.mark.parametrize("kind", HELD)
def test_a_kind_holds_all_of_its_table(kind):
    assert list(kinds()[kind]) == list(HELD[kind])


def test_every_word_of_the_vocabulary_is_listed_and_no_other():
    told = kinds()
    assert list(told) == [*HELD, "other words"]
    said = json.dumps(
        [list(held.values()) if isinstance(held, dict) else held for held in told.values()]
    )
    listed = {word for word in grammar.words(said) if word.isalnum()}
    assert listed == {word for word in VOCABULARY if word.isalnum()}
    assert "nobody" in told["other words"] and "fox" not in told["other words"]


def test_the_examples_can_be_filmed():
    for example in lexicon()["examples"]:
        for caption in example["captions"]:
            said = grammar.words(f"{example['global']} {caption}")
            assert set(said) <= set(VOCABULARY) and len(said) <= grammar.MAX_PROMPT_WORDS
        places = [(f"shot {n}", caption) for n, caption in enumerate(example["captions"], start=1)]
        assert grammar.cast_faults(example["global"], places) == []


@pytest.mark.parametrize("columns", [60, 100])
def test_the_page_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = page().splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("characters      Mia, Otto, Luna") for line in lines)
    assert "                beach: on the beach, by the sea" in lines
    assert "at most 2 characters in a shot" in lines


def test_a_terminal_of_a_few_columns_gets_lines_of_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "8")
    assert "characters      Mia, Otto, Luna, Felix," in page().splitlines()


def test_json_holds_the_same(capsys):
    main(["--json"])
    assert json.loads(capsys.readouterr().out) == lexicon()


def test_who_writes_another_word_is_sent_here():
    prompts = [("shot 's1'", "Mia the fox yodels.")]
    with pytest.raises(UsageError) as refused:
        check_prompts(prompts, word_tokenizer(VOCABULARY), 64)
    said = str(refused.value)
    assert "does not know 'yodels' in shot 's1'" in said
    assert said.endswith("; causalcine words lists what it knows")
    with pytest.raises(UsageError, match=r"it knows only:( \w+){20} and 20 more$"):
        check_prompts(prompts, word_tokenizer([f"word{n}" for n in range(40)]), 64)
