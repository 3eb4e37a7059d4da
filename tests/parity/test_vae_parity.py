import jax
import numpy as np
import pytest

pytest.importorskip("diffusers")

from diffusers_vae import TIME_FIRST, TINY, WAN_LIKE, diffusers_vae, our_vae, vae_tensors


@pytest.mark.parametrize(
    "config, frames, size",
    [
        (TINY, (1, 5, 9, 13), (16, 24)),
        (WAN_LIKE, (1, 9, 17), (8, 16)),
        (TIME_FIRST, (1, 5, 9), (8, 16)),
    ],
)
def test_encode_and_decode_equal_diffusers(config, frames, size, tmp_path):
    tensors = vae_tensors(config)
    ours = our_vae(config, tensors, tmp_path)
    encode, decode = diffusers_vae(config, tensors)
    rng = np.random.default_rng(0)
    for t in frames:
        video = rng.uniform(-1, 1, (2, t, *size, 3)).astype(np.float32)
        latents = encode(video)
        with jax.default_matmul_precision("highest"):
            assert _distance(ours.encode(video), latents) <= 1e-5
            theirs = decode(latents)
            assert np.mean(np.abs(theirs) == 1) < 0.2, (
                "too much of the video is clipped to be worth comparing"
            )
            assert _distance(ours.decode(latents), theirs) <= 1e-5


def _distance(ours, theirs) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
