"""A film by Diffusers' WanPipeline, prompt to pixels, against ours from the same folder and noise.

Also our bfloat16 film against their float32 one.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from diffusers import WanPipeline
from make_solver_goldens import scheduler
from wan_folder import TRANSFORMER, wan_folder

from causalcine_jax.convert import load_text_encoder, load_transformer, load_vae
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, sample
from causalcine_jax.models.packed import whole_film
from causalcine_jax.models.text.tokenizer import Tokenizer

STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    wan_folder(root / "wan")
    convert(ConvertConfig(root / "wan", root / "diffusers", to="diffusers", progress=False))
    return root / "diffusers"


@pytest.mark.parametrize("solver, shift, guidance", [("unipc", 5.0, 5.0), ("euler", 3.0, 6.0)])
def test_a_guided_film_step_by_step(folder, solver, shift, guidance):
    noise = np.random.default_rng(1).standard_normal((1, 2, 4, 6, 16), np.float32)
    steps, video = theirs(folder, noise, solver, shift, guidance)
    our_steps, our_video = ours(folder, noise, SamplerConfig(solver, STEPS, shift, guidance))
    for i, (a, b) in enumerate(zip(our_steps, steps, strict=True)):
        assert difference(a, b) <= 1e-4, f"step {i}"
    assert difference(our_video, video) <= 1e-4


def theirs(folder, noise, solver, shift, guidance):
    """The latents after each step, and the video in [-1, 1]."""
    pipe = WanPipeline.from_pretrained(folder)
    pipe.scheduler = scheduler(solver, STEPS, shift)
    pipe.scheduler.set_timesteps = lambda *_, **__: None  # already set to Wan2.1's, see `scheduler`
    pipe.set_progress_bar_config(disable=True)
    latents = []
    made = pipe(
        "a  fox runs",
        "blurred",
        height=8 * noise.shape[2],
        width=8 * noise.shape[3],
        num_frames=1 + 4 * (noise.shape[1] - 1),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        latents=torch.from_numpy(np.ascontiguousarray(np.moveaxis(noise, -1, 1))),
        max_sequence_length=512,
        output_type="pt",
        callback_on_step_end=lambda pipe, i, t, kept: (
            latents.append(np.moveaxis(kept["latents"].numpy(), 1, -1).copy()) or kept
        ),
    )
    return latents, 2 * np.moveaxis(made.frames.numpy(), 2, -1) - 1


def ours(folder, noise, config):
    tokenizer, encoder, model, vae = (
        Tokenizer.load(folder),
        load_text_encoder(folder),
        load_transformer(folder),
        load_vae(folder),
    )
    ids, mask = tokenizer(["a fox runs", "blurred"], TRANSFORMER.text_len)
    with jax.default_matmul_precision("highest"):
        text = encoder(ids, mask) * mask[..., None]

        @jax.jit
        def film(noise):
            def velocity(x, t):
                return whole_film(model, x, jax.numpy.full(len(x), t), text), x[:1]

            return sample(velocity, noise, config, jax.random.key(0), has_aux=True)

        x0, inputs = film(noise)
        return [*np.asarray(inputs)[1:], np.asarray(x0)], np.asarray(vae.decode(x0))


@torch.no_grad()
def test_bfloat16_is_near_their_float32(folder):
    pipe = WanPipeline.from_pretrained(folder)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 4, 6, 16), np.float32)
    t = np.array([937.5, 300.0], np.float32)
    text = rng.standard_normal((2, TRANSFORMER.text_len, TRANSFORMER.text_dim), np.float32)
    ids, mask = Tokenizer.load(folder)(["a fox runs", "blurred"], 16)
    channels_first = [
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1))) for a in (x, x[:1])
    ]
    want = pipe.transformer(
        channels_first[0], torch.from_numpy(t), torch.from_numpy(text), return_dict=False
    )[0]
    got = jax.jit(whole_film)(load_transformer(folder, "bfloat16"), x, t, text)
    assert difference(got, np.moveaxis(want.numpy(), 1, -1)) <= 2e-2
    want = pipe.text_encoder(
        torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
    ).last_hidden_state.numpy()
    assert (
        difference(
            load_text_encoder(folder, "bfloat16")(ids, mask) * mask[..., None],
            want * mask[..., None],
        )
        <= 2e-2
    )
    mean, std = (
        torch.tensor(getattr(pipe.vae.config, name)).reshape(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    want = pipe.vae.decode(channels_first[1] * std + mean).sample.numpy()
    assert difference(load_vae(folder, "bfloat16").decode(x[:1]), np.moveaxis(want, 1, -1)) <= 2e-2


def difference(a, b) -> float:
    return np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b)
