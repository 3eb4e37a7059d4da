import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from torch_models import wan_transformer
from wan_weights import TRANSFORMER, load, transformer_tensors

from causalcine_jax.convert import load_transformer
from causalcine_jax.models.packed import whole_film

# head_dim 128: 44 + 42 + 42.
WAN_HEADS = dataclasses.replace(TRANSFORMER, dim=256, num_heads=2, num_layers=1, freq_dim=256)


@pytest.mark.parametrize(
    "config, shape, t",
    [
        (TRANSFORMER, (1, 1, 2, 2), [1000.0]),
        (TRANSFORMER, (2, 3, 4, 6), [0.0, 637.0]),
        (TRANSFORMER, (1, 10, 6, 2), [937.5]),
        (WAN_HEADS, (2, 4, 6, 10), [1.0, 999.0]),
    ],
)
def test_whole_film_equals_diffusers(config, shape, t, tmp_path):
    tensors = transformer_tensors(config)
    rng = np.random.default_rng(sum(shape))
    x = rng.standard_normal((*shape, config.in_dim), np.float32)
    text = rng.standard_normal((shape[0], config.text_len, config.text_dim), np.float32)
    text[:, 4:] = 0  # padding is not masked: it must enter as zeros on both sides
    theirs = wan_transformer(config, tensors)(x, np.array(t, np.float32), text)
    model = load(tensors, config, load_transformer, tmp_path)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(whole_film)(model, x, np.array(t, np.float32), text[:, :5]))
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
