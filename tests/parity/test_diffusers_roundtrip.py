"""Diffusers and transformers load what launch/convert.py writes, and we load what they save."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel
from wan_folder import TEXT_ENCODER, TRANSFORMER, WORDS, wan_folder

from causalcine_jax.convert import load_text_encoder, load_transformer, load_vae
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.models.packed import whole_film
from causalcine_jax.models.text.tokenizer import Tokenizer

PROMPTS = ["a fox", "a"]


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("round")
    wan_folder(root / "wan")
    convert(
        ConvertConfig(
            root / "wan", root / "diffusers", to="diffusers", shard_gb=3e-5, progress=False
        )
    )
    return root / "diffusers"


@pytest.fixture(scope="module")
def pipeline(pipeline_folder):
    return WanPipeline.from_pretrained(pipeline_folder)


@pytest.mark.parametrize("kind", [WanTransformer3DModel, AutoencoderKLWan, UMT5EncoderModel])
def test_nothing_is_missing_or_unexpected(pipeline_folder, kind):
    part = {
        WanTransformer3DModel: "transformer",
        AutoencoderKLWan: "vae",
        UMT5EncoderModel: "text_encoder",
    }[kind]
    _, loading = kind.from_pretrained(pipeline_folder / part, output_loading_info=True)
    assert (
        not loading["missing_keys"]
        and not loading["unexpected_keys"]
        and not loading["mismatched_keys"]
    ), loading


def test_diffusers_reads_our_export(pipeline, pipeline_folder):
    assert_same_outputs(pipeline, pipeline_folder)
    assert (
        isinstance(pipeline.scheduler, UniPCMultistepScheduler)
        and pipeline.scheduler.config.flow_shift == 5.0
    )


def test_we_convert_what_diffusers_saves(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert list((tmp_path / "theirs/transformer").glob("*.index.json"))
    assert_same_outputs(pipeline, tmp_path / "theirs")
    convert(ConvertConfig(tmp_path / "theirs", tmp_path / "model", progress=False))
    assert_same_outputs(pipeline, tmp_path / "model")


@torch.no_grad()
def assert_same_outputs(pipeline, folder):
    """Compares the networks that we load from `folder`, and the tokenizers, with the pipeline's."""
    rng = np.random.default_rng(0)
    ids, mask = Tokenizer.load(folder)(PROMPTS, 16)
    theirs = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=16, return_tensors="np")
    assert isinstance(pipeline.tokenizer, PreTrainedTokenizerFast) and WORDS.count("a fox") == 3
    assert np.array_equal(ids, theirs.input_ids) and np.array_equal(mask, theirs.attention_mask)

    x = rng.standard_normal((2, 2, 4, 6, TRANSFORMER.in_dim), np.float32)
    t = np.array([937.0, 20.0], np.float32)
    text = rng.standard_normal((2, TRANSFORMER.text_len, TRANSFORMER.text_dim), np.float32)
    latents = rng.standard_normal((1, 2, 2, 2, 16), np.float32)
    video = rng.uniform(-1, 1, (1, 5, 16, 16, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        velocity = jax.jit(whole_film)(load_transformer(folder), x, t, text)
        embedded = load_text_encoder(folder)(ids, mask)
        vae = load_vae(folder)
        decoded, encoded = vae.decode(latents), vae.encode(video)
    assert embedded.shape[-1] == TEXT_ENCODER.dim
    want = pipeline.transformer(
        tensor(x), torch.from_numpy(t), torch.from_numpy(text), return_dict=False
    )[0]
    assert_close(velocity, array(want))
    want = pipeline.text_encoder(
        torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
    ).last_hidden_state.numpy()
    assert_close(np.asarray(embedded) * mask[..., None], want * mask[..., None])
    mean, std = (
        np.array(getattr(pipeline.vae.config, name), np.float32)
        for name in ("latents_mean", "latents_std")
    )
    assert_close(decoded, array(pipeline.vae.decode(tensor(latents * std + mean)).sample))
    assert_close(encoded, (array(pipeline.vae.encode(tensor(video)).latent_dist.mean) - mean) / std)


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def array(x):
    return np.moveaxis(x.float().numpy(), 1, -1)


def assert_close(ours, theirs):
    assert np.linalg.norm(np.asarray(ours) - theirs) <= 1e-5 * np.linalg.norm(theirs)
