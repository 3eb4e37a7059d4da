import jax
import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from torch_models import umt5_encoder
from wan_weights import TEXT_ENCODER, load, text_encoder_tensors

from causalcine_jax.convert import load_text_encoder
from causalcine_jax.network_sizes import TextEncoderConfig

# Lengths of 64 tokens and more reach all of UMT5's 32 buckets and the limit at distance 128.
WAN_BUCKETS = TextEncoderConfig(
    vocab_size=99, dim=32, dim_attn=48, dim_ffn=40, num_heads=6, num_layers=2
)


@pytest.mark.parametrize(
    "config, length, lengths",
    [(TEXT_ENCODER, 9, [9, 4, 1]), (TEXT_ENCODER, 40, [33, 40]), (WAN_BUCKETS, 200, [200, 77])],
)
def test_equals_transformers(config, length, lengths, tmp_path):
    tensors = text_encoder_tensors(config, seed=length)
    rng = np.random.default_rng(length)
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int32)
    ids = rng.integers(1, config.vocab_size, mask.shape).astype(np.int32) * mask
    theirs = umt5_encoder(config, tensors)(ids, mask) * mask[..., None]
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(load(tensors, config, load_text_encoder, tmp_path)(ids, mask))
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
