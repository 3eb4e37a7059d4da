import json

import numpy as np
import pytest

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.text.tokenizer import Tokenizer, clean, word_tokenizer

WORDS = ["A fox", "owl", "Mira", "the", "runs", "harbour", "at dusk", "close-up", ".", ","]


@pytest.fixture
def tokenizer():
    return word_tokenizer(WORDS)


def test_ids_are_words_in_alphabetical_order_then_eos_then_padding(tokenizer):
    words = tokenizer.known_words()
    assert words == sorted(words) and "fox" in words and "A" not in words
    ids, mask = tokenizer(["The fox, at dusk.", ""], 8)
    expected = [3 + words.index(w) for w in ["the", "fox", ",", "at", "dusk", "."]] + [1, 0]
    assert ids.dtype == np.int32 and ids.tolist() == [expected, [1, 0, 0, 0, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert tokenizer.size == len(words) + 3
    assert tokenizer.count("the fox") == 3


def test_hyphenated_words_are_split_as_captions_are(tokenizer):
    assert {"close", "-", "up"} <= set(tokenizer.known_words())
    assert tokenizer.unknown_words("close-up") == []


def test_over_long_captions_are_all_named_with_count_and_limit(tokenizer):
    with pytest.raises(
        UsageError, match=r"at most 3 tokens.*4 tokens in 'the fox runs'; 5 tokens in"
    ):
        tokenizer(["the fox runs", "owl", "the fox , runs"], 3)


def test_a_caption_that_just_fits(tokenizer):
    ids, mask = tokenizer(["the fox runs"], 4)
    assert ids[0, -1] == 1 and mask.all()


def test_unknown_words_are_listed_once_as_written(tokenizer):
    assert tokenizer.unknown_words("The Zebra, the fox; a zebra  Zebra sings.") == [
        "Zebra",
        ";",
        "zebra",
        "sings",
    ]
    ids, _ = tokenizer(["zebra"], 2)
    assert ids.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    "written, read",
    [
        ("  a \n\t fox\u3000runs ", "a fox runs"),
        ("cats &amp;amp; dogs", "cats & dogs"),
        ("&lt;b&gt;", "<b>"),
        ("schÃ¶n", "schön"),
        ("“quoted”", '"quoted"'),
        ("狐狸在跑", "狐狸在跑"),
    ],
)
def test_cleaning(written, read):
    assert clean(written) == read


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "text_encoder")
    for place in (
        tmp_path,
        tmp_path / "text_encoder",
        tmp_path / "text_encoder" / "tokenizer.json",
    ):
        again = Tokenizer.load(place)
        assert (
            again(["Mira runs, zebra"], 8)[0].tolist()
            == tokenizer(["Mira runs, zebra"], 8)[0].tolist()
        )
        assert again.known_words() == tokenizer.known_words()
    assert [p.name for p in (tmp_path / "text_encoder").iterdir()] == ["tokenizer.json"]


def test_too_many_words_for_the_embedding():
    with pytest.raises(UsageError, match="13 tokens, the text encoder holds 12"):
        word_tokenizer(list("abcdefghij"), vocab_size=12)
    assert word_tokenizer(list("abcdefghij"), vocab_size=13).size == 13


def test_missing_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer at .*text_encoder"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ not json")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_eos_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace("</s>", "<end>")
    assert json.loads(text)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="</s>"):
        Tokenizer.load(tmp_path)
