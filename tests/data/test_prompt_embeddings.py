"""Embeddings beside a latent store: each prompt embedded once, and found again by its token ids."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import WORDS, random_weights
from tiny_training import TEXT_LEN, tiny_config, tiny_store

from causalcine_jax.convert import load_text_encoder, save_model
from causalcine_jax.data import embed_command
from causalcine_jax.data.embed_command import embed_stores
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.prompt_embeddings import (
    FOLDER,
    EmbeddingsSpec,
    KnownPrompts,
    key_of,
    read_spec,
    write_spec,
)
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.film.embeddings import encoder_hash
from causalcine_jax.models.text.umt5 import UMT5Encoder

NULL = WORDS([""], TEXT_LEN)[0][0]


def text_model(folder, seed=0):
    sizes = tiny_config().text_encoder
    encoder = random_weights(lambda key: UMT5Encoder(sizes, key=key), seed)
    save_model(folder, text_encoder=encoder, tokenizer=WORDS, dtype=np.float32)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture
def store(tmp_path):
    return tiny_store(tmp_path / "store", films=6)


def known(model, *stores, dtype="float32"):
    paths = [store.path for store in stores]
    return KnownPrompts(paths, encoder_hash(model), NULL, dtype, "the command")


def test_every_prompt_is_found_as_the_text_encoder_gives_it(model, store):
    embed_stores(model, [store.path], "float32", progress=False)
    prompts, encoder = known(model, store), load_text_encoder(model)
    for film in range(len(store)):
        record = store[film]
        record["token_ids"][1] = 0  # an unused shot
        found = prompts(record, np.random.default_rng(0))
        ids = record["token_ids"]
        np.testing.assert_allclose(found["text"], encoder(ids, ids != 0), atol=1e-5)
        assert not found["text"][1].any()
        np.testing.assert_allclose(
            found["null_text"], encoder(NULL[None], NULL[None] != 0)[0], atol=1e-5
        )


def test_they_are_bfloat16_by_default_and_given_in_the_dtype_that_is_asked_for(model, store):
    embed_stores(model, [store.path], progress=False)
    assert read_spec(store.path / FOLDER).dtype == "bfloat16"
    for dtype in ("bfloat16", "float32"):
        text = known(model, store, dtype=dtype)(store[0], np.random.default_rng(0))["text"]
        assert text.dtype == dtype and text.any()


def test_padding_does_not_change_a_prompts_key():
    assert key_of(np.array([5, 1])) == key_of(np.array([5, 1, 0, 0])) != key_of(np.array([1]))


def test_a_second_run_embeds_nothing_and_other_prompts_replace_them(
    model, store, tmp_path, monkeypatch, capsys
):
    embed_stores(model, [store.path])
    assert "13 prompts, 13 of them new" in capsys.readouterr().out  # 6 films of 2, and ""
    loads = []
    monkeypatch.setattr(embed_command, "load_text_encoder", lambda *_, **__: loads.append(1))
    embed_stores(model, [store.path])
    assert "13 prompts, 0 of them new" in capsys.readouterr().out and not loads
    monkeypatch.undo()
    embed_stores(model, [store.path], "float32", progress=False)
    assert read_spec(store.path / FOLDER).dtype == "float32"


def test_a_stopped_run_goes_on_with_the_files_that_are_missing(model, store, monkeypatch):
    monkeypatch.setattr("causalcine_jax.data.prompt_embeddings.SHARD", 4)
    embedded, calls = embed_command._embedded, []

    def stops_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embedded(*arguments)

    monkeypatch.setattr(embed_command, "_embedded", stops_at_the_third)
    with pytest.raises(StoppedEarly, match="the same command goes on"):
        embed_stores(model, [store.path], "float32", progress=False)
    assert read_spec(store.path / FOLDER) is None
    embed_stores(model, [store.path], "float32", progress=False)
    assert len(calls) == 5  # 13 rows in files of 4, of which two were there
    prompts, encoder = known(model, store), load_text_encoder(model)
    ids = store[5]["token_ids"]
    np.testing.assert_allclose(
        prompts(store[5], np.random.default_rng(0))["text"], encoder(ids, ids != 0), atol=1e-5
    )


def test_missing_ones_and_those_of_another_encoder_are_refused(model, store, tmp_path):
    with pytest.raises(UsageError, match="holds no embeddings of prompts: run the command"):
        known(model, store)
    embed_stores(model, [store.path], progress=False)
    other = text_model(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="is of another text encoder: run the command"):
        known(other, store)
    strange = store[0] | {"token_ids": np.full((2, TEXT_LEN), 7, np.int32)}
    with pytest.raises(UsageError, match="a prompt has no embedding"):
        known(model, store)(strange, np.random.default_rng(0))


def test_damage_is_noticed(model, store):
    embed_stores(model, [store.path], progress=False)
    for file in (store.path / FOLDER / "rows/c").rglob("*"):
        if file.is_file():
            content = bytearray(file.read_bytes())
            content[: len(content) // 2] = bytes(len(content) // 2)
            file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        known(model, store)(store[0], np.random.default_rng(0))


def test_rows_whose_file_is_gone_are_missed_and_embedded_again(model, store, capsys):
    embed_stores(model, [store.path], progress=False)
    opened = known(model, store)
    (rows,) = (path for path in (store.path / FOLDER / "rows/c").rglob("*") if path.is_file())
    rows.unlink()  # under a training that reads them
    for prompts in (lambda: opened, lambda: known(model, store)):
        with pytest.raises(DataError, match=r"is missing.*run the command"):
            prompts()(store[0], np.random.default_rng(0))
    embed_stores(model, [store.path])
    assert "13 prompts, 13 of them new" in capsys.readouterr().out
    assert known(model, store)(store[0], np.random.default_rng(0))["text"].any()


def test_a_kill_while_others_are_replaced_leaves_no_part_of_them(model, store, monkeypatch):
    embed_stores(model, [store.path], progress=False)

    def stops_within(folder, **_):
        if folder.name == FOLDER:
            (folder / "rows/zarr.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(embed_command.shutil, "rmtree", stops_within)
        with pytest.raises(StoppedEarly):
            embed_stores(model, [store.path], "float32", progress=False)
    assert read_spec(store.path / FOLDER) is None
    embed_stores(model, [store.path], "float32", progress=False)
    assert read_spec(store.path / FOLDER).dtype == "float32"
    assert not (store.path / f"{FOLDER}.partial").exists()


def test_embeddings_that_are_a_link_are_refused_only_where_they_would_be_replaced(
    model, store, tmp_path
):
    embed_stores(model, [store.path], progress=False)
    (store.path / FOLDER).rename(tmp_path / "big")
    (store.path / FOLDER).symlink_to(tmp_path / "big")
    embed_stores(model, [store.path], progress=False)
    with pytest.raises(UsageError, match="embeddings is a link"):
        embed_stores(model, [store.path], "float32", progress=False)
    assert read_spec(tmp_path / "big").dtype == "bfloat16"


def test_a_store_of_another_tokenizer_is_refused(model, store):
    spec = store.path / "store.json"
    spec.write_text(spec.read_text().replace('"tokenizer": ""', '"tokenizer": "other"'))
    assert LatentStore.open(store.path).spec == dataclasses.replace(store.spec, tokenizer="other")
    with pytest.raises(UsageError, match="of another tokenizer"):
        embed_stores(model, [store.path])
    with pytest.raises(UsageError, match="dtype"):
        embed_stores(model, [store.path], "float64")


@pytest.mark.parametrize(
    "edit",
    [
        {"text_len": 10**400},
        {"text_len": 2**40},
        {"dim": 0},
        {"dtype": "int32"},
        {"keys": [{}]},
        {"keys": "abc"},
        {"encoder_sha256": None},
        {"more": 1},
    ],
)
def test_an_edited_spec_counts_as_none(edit, tmp_path):
    spec = EmbeddingsSpec("0" * 64, "bfloat16", 8, 16, ("a", "b"))
    write_spec(tmp_path, spec)
    assert read_spec(tmp_path) == spec
    file = tmp_path / "embeddings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    assert read_spec(tmp_path) is None
