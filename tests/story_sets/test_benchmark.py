"""The benchmark's two sets: without faults, balanced, and stories that Wan-shaped models film."""

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from repository import ROOT
from tiny_models import random_weights, tiny_folder, tiny_model

from causalcine_jax.__main__ import command
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.story import Video
from causalcine_jax.story_sets import read_set
from causalcine_jax.story_sets.lint import alike, set_lint
from causalcine_jax.story_sets.story_set import check_hashes

SETS = ("multishot-100", "memory-100")


@pytest.fixture(scope="module")
def sets():
    return {name: read_set(ROOT / "stories" / f"{name}.yaml") for name in SETS}


@pytest.mark.parametrize("name", SETS)
def test_the_set_has_no_fault_and_its_hashes_are_those_in_the_docs(name, sets):
    assert len(sets[name].stories) == 100 and sets[name].licence == "CC-BY-4.0"
    assert set_lint(sets[name]) == []
    check_hashes(sets[name])
    whole = hashlib.sha256(sets[name].hashes.read_bytes()).hexdigest()
    for page in ("docs/benchmark.md", "stories/README.md"):
        assert whole in (ROOT / page).read_text("utf-8"), f"{page} has another hash of {name}"


def test_no_caption_stands_in_both_sets_and_no_name_twice(sets):
    everything = tuple(each for name in SETS for each in sets[name].stories)
    assert list(alike(everything)) == []
    assert len({each.name for each in everything}) == 200


def test_absences_and_descriptions_are_balanced_together(sets):
    cells = Counter(
        (each.labels["away"], each.labels["described_again"]) for each in sets["memory-100"].stories
    )
    assert set(cells) == {(away, again) for away in (1, 2, 3) for again in (False, True)}
    assert set(cells.values()) == {16, 17}


@pytest.mark.parametrize("name", SETS)
def test_ten_lists_of_cuts_are_equally_frequent(name, sets):
    counts = Counter(tuple(each.labels["cuts"]) for each in sets[name].stories)
    assert len(counts) == 10 and set(counts.values()) == {10}


@pytest.fixture(scope="module")
def wan_shaped(sets, tmp_path_factory):
    """A folder with Wan2.1's 512 tokens and 832x480 pixels; its words are the sets' own."""
    prompts = (
        each.story.prompt(shot)
        for stories in sets.values()
        for each in stories.stories
        for shot in each.story.shots
    )
    words = word_tokenizer(prompts)
    text = TextEncoderConfig(words.size, dim=16, dim_attn=16, dim_ffn=32, num_heads=2, num_layers=1)
    sizes = TransformerConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=512, freq_dim=16
    )
    model = replace(
        tiny_model(video=Video(16, 832, 480)),
        transformer=random_weights(lambda key: Transformer(sizes, key=key), 0),
        text_encoder=random_weights(lambda key: UMT5Encoder(text, key=key), 1),
        tokenizer=words,
    )
    return tiny_folder(tmp_path_factory.mktemp("models") / "wan-shaped", model)


@pytest.mark.parametrize("name", SETS)
def test_check_takes_a_story_of_each_set(name, sets, wan_shaped, capsys):
    each = sets[name].stories[0]
    story = ROOT / "stories" / name / f"{each.name}.yaml"
    command(["check", str(story), "--model", str(wan_shaped)])
    said = capsys.readouterr().out
    assert "5 shots, 20 chunks, 237 frames: 14.81 s of 832x480 at 16 frames per second" in said
    cuts = ", ".join(f"{frame / 16:.2f} s" for frame in each.labels["cuts"])
    assert f"cuts at {cuts}" in said and "wan-shaped reads 512 tokens of a prompt" in said
