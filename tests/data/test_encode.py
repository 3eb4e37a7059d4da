"""Encoding: the store holds the VAE's and tokenizer's output; resuming, processes, bad requests."""

import dataclasses
import errno
import runpy
import shutil

import crashing_tasks
import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import ROOT
from tiny_models import random_weights
from tiny_worlds import TINY, paint_few, tiny_encode_shard

from causalcine_jax.convert import save_model
from causalcine_jax.data import encode_command, latent_writer, pool
from causalcine_jax.data.encode import (
    Paint,
    StoryWorldFilms,
    UnencodedFilm,
    encode_films,
    paint_and_encode,
    storyworld_spec,
    tokenizer_hash,
    vae_hash,
)
from causalcine_jax.data.encode_command import encode_storyworld
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.storyworld import (
    VOCABULARY,
    render,
    sample_story,
    scene_parameters,
)
from causalcine_jax.utils import output

CONFIG = VAEConfig(
    dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1, mean=(0.1,) * 16, std=(2.0,) * 16
)


@pytest.fixture(scope="module")
def vae():
    return random_weights(lambda key: VAE(CONFIG, key=key), 0)


class PoolingVAE(VAE):
    """Averages 4 frames of 8x8 pixels in place of a network, which is enough to test resuming."""

    def __init__(self):
        self.cfg, self.encoder, self.conv1 = CONFIG, None, None

    def encode_first(self, video):
        return self._latents(jnp.concatenate([video[:, :1]] * 3 + [video], axis=1)), ()

    def encode_next(self, cache, video):
        return self._latents(video), ()

    def _latents(self, video):
        means = einops.reduce(video, "b (f t) (h y) (w x) c -> b f h w c", "mean", t=4, y=8, x=8)
        return jnp.tile(means, 6)[..., :16]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(VOCABULARY)


@pytest.fixture
def model(vae, tmp_path):
    save_model(tmp_path / "model", vae=vae)
    return tmp_path / "model"


@pytest.fixture
def tiny_world(monkeypatch):
    """Short films in few shapes. `TINY` as it is painted: test_the_store_holds_what_..."""
    monkeypatch.setitem(encode_command.WORLDS, "tiny", lambda: TINY)
    monkeypatch.setattr(Paint, "__call__", paint_few)
    monkeypatch.setattr(encode_command, "_encode_shard", tiny_encode_shard)


def spec_of(vae, tokenizer, films: int, seed: int = 3):
    spec = storyworld_spec(StoryWorldFilms(TINY, seed), films, vae, tokenizer, 64)
    return dataclasses.replace(spec, films_per_shard=2)


def test_the_store_holds_what_the_vae_and_the_tokenizer_give(vae, tokenizer, tmp_path):
    source = StoryWorldFilms(TINY, 3)
    writer = LatentStoreWriter(tmp_path / "films", spec_of(vae, tokenizer, 1))
    written = []
    encode_films(vae, tokenizer, source, writer, batch=1, on_progress=written.append)
    store = writer.finish()
    assert written == [1] and len(store) == 1
    assert store.spec.source["seed"] == 3 and store.spec.shapes()["latents"] == (12, 6, 10, 16)
    story = sample_story(3, 0, TINY)
    video = render(scene_parameters(story), TINY.height, TINY.width)
    record = store[0]
    expected = np.asarray(vae.encode(video[None].astype(np.float32) / 127.5 - 1.0))[0]
    # float16 rounds, and renderers may differ by one grey level.
    np.testing.assert_allclose(record["latents"], expected, atol=0.03 * expected.std())
    ids, _ = tokenizer(story.prompts(), 64)
    np.testing.assert_array_equal(record["token_ids"][: len(ids)], ids)
    np.testing.assert_array_equal(record["shot_of_chunk"], story.shot_of_chunk())
    assert store.prompts(0) == list(story.prompts())


def test_encoding_in_pieces_equals_encoding_the_whole_film(vae):
    video = np.random.default_rng(0).integers(0, 256, (2, 33, 16, 24, 3), np.uint8)
    whole = np.asarray(vae.encode(video.astype(np.float32) / 127.5 - 1.0))
    steps = np.asarray(paint_and_encode(vae, video, _identity, frames_per_step=12))
    assert np.linalg.norm(steps - whole) <= 1e-5 * np.linalg.norm(whole)


def _identity(frames):
    return frames


class NoiseFilms:
    """Videos held in memory, as a reader of files would give them."""

    pixels = staticmethod(_identity)

    def __getitem__(self, index: int) -> UnencodedFilm:
        video = np.random.default_rng(index).integers(
            0, 256, (TINY.frames, TINY.height, TINY.width, 3), np.uint8
        )
        return UnencodedFilm(video, ["A fox."], np.zeros(TINY.chunks, np.int32))


def test_an_interrupted_encoding_goes_on_and_ends_the_same(tokenizer, tmp_path):
    vae = PoolingVAE()
    spec = spec_of(vae, tokenizer, 5)

    class Interrupted(NoiseFilms):
        def __getitem__(self, index: int) -> UnencodedFilm:
            if index == 4:
                raise KeyboardInterrupt
            asked.append(index)
            return super().__getitem__(index)

    asked = []
    with pytest.raises(KeyboardInterrupt):
        encode_films(
            vae, tokenizer, Interrupted(), LatentStoreWriter(tmp_path / "a", spec), batch=2
        )
    with pytest.raises(DataError, match="of 5 films are encoded"):
        LatentStore.open(tmp_path / "a")

    writer = LatentStoreWriter(tmp_path / "a", spec)
    still = [film for shard in writer.pending() for film in shard]
    assert still[-1] == 4 and 0 not in still
    encode_films(vae, tokenizer, NoiseFilms(), writer, batch=2)
    resumed = writer.finish()

    writer = LatentStoreWriter(tmp_path / "b", spec)
    for own in (writer.pending()[1::2], writer.pending()[::2]):
        encode_films(vae, tokenizer, NoiseFilms(), writer, batch=2, shards=own)
    parts = writer.finish()
    for film in range(5):
        np.testing.assert_array_equal(resumed[film]["latents"], parts[film]["latents"])
        np.testing.assert_array_equal(resumed[film]["token_ids"], parts[film]["token_ids"])


def test_another_seed_is_another_collection(tokenizer):
    train, held_out = StoryWorldFilms(TINY, 0), StoryWorldFilms(TINY, 1_000_000)
    assert not np.array_equal(train[0].frames, held_out[0].frames)
    assert spec_of(PoolingVAE(), tokenizer, 2, seed=0) != spec_of(
        PoolingVAE(), tokenizer, 2, seed=1_000_000
    )


def test_hashes_follow_the_content(vae, tokenizer):
    other = jax.tree.map(lambda x: x + 1, vae)
    rescaled = jax.tree.map(lambda x: x, vae)
    assert vae_hash(vae) == vae_hash(rescaled)
    rescaled.cfg = dataclasses.replace(CONFIG, std=(1.0,) * 16)
    assert len({vae_hash(v) for v in (vae, other, rescaled)}) == 3
    assert (
        tokenizer_hash(tokenizer)
        == tokenizer_hash(word_tokenizer(VOCABULARY))
        != tokenizer_hash(word_tokenizer(["fox"]))
    )


def test_prompts_that_do_not_fit_are_named(model, tiny_world, tmp_path):
    with pytest.raises(UsageError, match="caption too long, the model reads at most 5 tokens"):
        encode_storyworld(
            EncodeConfig(model, tmp_path / "films", "tiny", films=2, text_len=5),
            progress=False,
        )


def test_a_bad_request_names_all_its_faults(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"films must be positive, not 0; .*processes.*; seed must not .*; "
        r"unknown world 'bass', did you mean 'base'",
    ):
        EncodeConfig(tmp_path, tmp_path, world="bass", seed=-1, films=0, processes=0)


def test_two_processes_encode_one_store(model, tiny_world, tmp_path):
    config = EncodeConfig(
        model, tmp_path / "films", "tiny", films=2, films_per_shard=1, processes=2
    )
    store = encode_storyworld(config, progress=False)
    assert len(store) == 2 and store[1]["latents"].shape == (12, 6, 10, 16)
    assert not np.array_equal(store[0]["latents"], store[1]["latents"])


def test_a_fault_in_a_process_is_the_commands_fault(model, tmp_path):
    with pytest.raises(UsageError, match="caption too long"):
        encode_storyworld(
            EncodeConfig(
                model, tmp_path / "films", films=2, processes=2, text_len=5, films_per_shard=1
            ),
            progress=False,
        )


def test_a_process_that_dies_ends_the_command(model, tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_command, "_encode_shard", crashing_tasks.dies)
    config = EncodeConfig(
        model, tmp_path / "films", "tiny", films=2, films_per_shard=1, processes=2
    )
    with pytest.raises(
        DataError, match=r"encoded films \d to \d died, also when no other ran.*to resume"
    ):
        encode_storyworld(config, progress=False)


def test_no_more_processes_are_started_than_shards(model, tiny_world, tmp_path, monkeypatch):
    started = []

    def nothing(function, waiting, workers):
        started.append(workers)
        yield from ()
        return []

    monkeypatch.setattr(pool, "_until_a_crash", nothing)
    out = tmp_path / "films"
    with pytest.raises(DataError, match="still missing"):
        encode_storyworld(
            EncodeConfig(model, out, "tiny", films=6, processes=1000, films_per_shard=2),
            progress=False,
        )
    assert started == [3]
    with pytest.raises(UsageError, match="processes must be at most 1024, not 100000"):
        EncodeConfig(model, out, processes=100_000)


@pytest.mark.parametrize("full", ["write_spec", "open_arrays"])
def test_a_disk_that_is_full_at_the_beginning_leaves_what_the_next_run_takes(
    full, model, tiny_world, tmp_path, monkeypatch
):
    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = EncodeConfig(model, tmp_path / "films", "tiny", films=2)
    with monkeypatch.context() as patched, pytest.raises(DataError, match="No space left"):
        patched.setattr(latent_writer, full, fails)
        encode_storyworld(config, progress=False)
    assert (tmp_path / "films.partial").is_dir()
    assert len(encode_storyworld(config, progress=False)) == 2


def test_absurd_numbers_end_in_one_line(model, tiny_world, tmp_path):
    absurd = EncodeConfig(model, tmp_path / "films", "tiny", films=10**11)
    for _ in range(2):
        with pytest.raises(DataError, match=r"not enough room on the disk: .* needs up to"):
            encode_storyworld(absurd, progress=False)
    films = EncodeConfig(model, tmp_path / "films", "tiny", films=1, batch=10**11)
    assert len(encode_storyworld(films, progress=False)) == 1


def test_a_stop_keeps_the_films_and_a_small_disk_is_refused(
    model, tiny_world, tmp_path, monkeypatch
):
    config = EncodeConfig(model, tmp_path / "films", "tiny", films=2, films_per_shard=1)
    write, usage = LatentStoreWriter.write, shutil._ntuple_diskusage(10**6, 10**6, 1000)
    with monkeypatch.context() as patched, pytest.raises(DataError, match="needs up to"):
        patched.setattr(output.shutil, "disk_usage", lambda _: usage)
        encode_storyworld(config, progress=False)

    def stopping(writer, films, records):
        write(writer, films, records)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(StoppedEarly, match="goes on from there"):
        patched.setattr(LatentStoreWriter, "write", stopping)
        encode_storyworld(config, progress=False)
    assert len(list((tmp_path / "films.partial" / "captions").iterdir())) == 1
    assert len(encode_storyworld(config, progress=False)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"films", "model"}


def test_the_command(model, tiny_world, tmp_path, monkeypatch, capsys):
    out = tmp_path / "films"

    def encode(*words) -> int:
        monkeypatch.setattr("sys.argv", ["encode.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "launch/encode.py"), run_name="__main__")
        return ended.value.code

    assert encode("--model", model, "--out", out, "--world", "tiny", "--films", 1) == 0
    assert "1 films encoded" in capsys.readouterr().out and len(LatentStore.open(out)) == 1
    assert encode("--model", tmp_path, "--out", tmp_path / "other") == 1
    assert capsys.readouterr().err.startswith("error: no .safetensors")
