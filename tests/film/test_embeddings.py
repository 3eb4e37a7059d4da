"""Prompt embeddings on disk: the same film without text encoder; one program for all lengths."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import tiny_folder, tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film import embeddings, rollout, state
from causalcine_jax.film.director import Director
from causalcine_jax.film.embeddings import PromptEmbeddings
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.embed_only import save_story_embeddings
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.story import Shot, Story
from causalcine_jax.utils.output import one_file_writer

STORY = Story(
    (Shot("Mia waves.", chunks=1), Shot("Otto sleeps in the forest at night.", chunks=2)),
    "A story.",
)
SAMPLER = SamplerConfig("euler", steps=1, guidance=3.0)


@pytest.fixture(scope="module")
def model():
    return tiny_model(sampler=SAMPLER)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny", model)


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("embeddings") / "prompts.safetensors"
    save_story_embeddings(Recipe(STORY), file, model=folder, progress=False)
    return file


def test_the_film_is_the_same_without_the_encoder(folder, file, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    shutil.rmtree(alone / "text_encoder")
    with_encoder = generate(
        Recipe(STORY), tmp_path / "a", model=folder, choices=Choices(scale=1), progress=False
    )
    without = generate(
        Recipe(STORY),
        tmp_path / "b",
        model=alone,
        choices=Choices(scale=1, embeddings=file),
        progress=False,
    )
    assert without["frames_sha256"] == with_encoder["frames_sha256"]


def test_the_file_grows_and_holds_no_padding(folder, file, tmp_path):
    known = PromptEmbeddings.load(file)
    assert {prompt: len(row) for prompt, row in known.rows.items()} == {
        "A story. Mia waves.": 7, "A story. Otto sleeps in the forest at night.": 12, "": 1,
    }  # fmt: skip
    grown = tmp_path / "grown.safetensors"
    shutil.copy(file, grown)
    more = Recipe(Story((Shot("Mia waves.", chunks=1), Shot("Mia jumps.", chunks=1)), "A story."))
    save_story_embeddings(
        more, grown, model=folder, choices=Choices(start_caption="Otto waves."), progress=False
    )
    rows = PromptEmbeddings.load(grown).rows
    assert set(rows) - set(known.rows) == {"A story. Mia jumps.", "A story. Otto waves."}
    assert all(np.array_equal(rows[prompt], row) for prompt, row in known.rows.items())


def test_two_commands_do_not_add_to_one_file_at_once(folder, file):
    before = PromptEmbeddings.load(file).rows
    with one_file_writer(file), pytest.raises(UsageError, match="is being written by process"):
        save_story_embeddings(Recipe(STORY), file, model=folder, progress=False)
    save_story_embeddings(Recipe(STORY), file, model=folder, progress=False)
    assert PromptEmbeddings.load(file).rows.keys() == before.keys()
    assert list(file.parent.iterdir()) == [file]


def test_prompts_that_the_file_lacks_are_all_named(folder, file):
    story = Story(
        (Shot("Mia waves.", chunks=1), Shot("Mia jumps.", chunks=1), Shot("Otto waves.", chunks=1)),
        "A story.",
    )
    with pytest.raises(
        UsageError,
        match=r"shot 's2' is not in .*'A story. Mia jumps.'; add it with --embed-only; "
        r"shot 's3' is not in",
    ):
        Director(load_model(folder, embeddings=file), story)


def test_embeddings_of_another_encoder_are_refused(folder, file, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    PromptEmbeddings("0" * 64, PromptEmbeddings.load(file).rows).save(foreign)
    with pytest.raises(UsageError, match="holds embeddings of another text encoder"):
        Director(load_model(folder, embeddings=foreign), STORY)
    with pytest.raises(UsageError, match="holds embeddings of another text encoder"):
        save_story_embeddings(Recipe(STORY), foreign, model=folder, progress=False)


def test_files_that_hold_no_embeddings_are_named(tmp_path):
    with pytest.raises(
        DataError,
        match=r"no prompt embeddings at .*none: make them with causalcine film --embed-only",
    ):
        PromptEmbeddings.load(tmp_path / "none")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other")
    with pytest.raises(DataError, match="other holds no prompt embeddings"):
        PromptEmbeddings.load(tmp_path / "other")
    (tmp_path / "torn").write_bytes(b"torn")
    with pytest.raises(DataError, match="torn is damaged or incomplete"):
        PromptEmbeddings.load(tmp_path / "torn")


@pytest.mark.parametrize("prompts", ["5", "null", '[["a"]]', "[" * 100_000])
def test_prompts_that_are_no_list_of_texts_are_named(prompts, tmp_path):
    header = {"schema": embeddings.SCHEMA, "encoder_sha256": "0", "prompts": prompts}
    save_file({"0": np.zeros((1, 4), np.float32)}, tmp_path / "edited", header)
    with pytest.raises(DataError, match="edited is damaged or incomplete") as refused:
        PromptEmbeddings.load(tmp_path / "edited")
    assert len(str(refused.value)) < 500


def test_embeddings_of_another_shape_are_named(tmp_path):
    header = {"schema": embeddings.SCHEMA, "encoder_sha256": "0", "prompts": '["a"]'}
    save_file({"0": np.zeros(4, np.float32)}, tmp_path / "flat", header)
    with pytest.raises(DataError, match="an embedding is no table"):
        PromptEmbeddings.load(tmp_path / "flat")
    save_file({"0": np.zeros((1, 4), np.int32)}, tmp_path / "whole", header)
    with pytest.raises(DataError, match="an embedding is no table of tokens and numbers"):
        PromptEmbeddings.load(tmp_path / "whole")
    save_file({"0": np.full((1, 4), np.nan, np.float32)}, tmp_path / "nan", header)
    with pytest.raises(DataError, match="an embedding holds NaN or infinity"):
        PromptEmbeddings.load(tmp_path / "nan")
    PromptEmbeddings("0", {"a": np.zeros((1, 4), np.float32)}).save(tmp_path / "narrow")
    known = PromptEmbeddings.load(tmp_path / "narrow")
    known.check([("shot 's1'", "a")], text_len=8, text_dim=4)
    with pytest.raises(UsageError, match=r"shot 's1': a token has 4 numbers in .*, and 16 for"):
        known.check([("shot 's1'", "a")], text_len=8, text_dim=16)


def test_nothing_compiles_anew_for_a_prompt_of_another_length(model):
    moves = (embeddings.encode, state.text_context, rollout.denoise, rollout.commit)
    captions = (
        "Mia.",
        "Mia waves in the forest.",
        "Otto sleeps in the forest at night.",
        "Mia waves. Otto sleeps. Mia jumps.",
    )
    first = Director(
        model,
        Story(tuple(Shot(caption, chunks=1) for caption in captions), negative="A story."),
        pool=PoolConfig(18),
    )
    list(first)
    before = [move._cache_size() for move in moves]
    other = Story(
        (
            Shot("Otto waves.", chunks=2),
            Shot("Mia.", chunks=3),
            Shot("Mia jumps in the forest at night.", chunks=1),
        )
    )
    list(Director(model, other, pool=PoolConfig(18)))  # nor for another number of shots and chunks
    assert [move._cache_size() for move in moves] == before
    list(
        Director(
            model,
            Story((Shot("Mia.", chunks=1),), video=type(model.video)(16, 48, 16)),
            pool=PoolConfig(18),
        )
    )
    assert [move._cache_size() - count for move, count in zip(moves, before, strict=True)] == [
        0,
        0,
        1,
        1,
    ]  # one per size
