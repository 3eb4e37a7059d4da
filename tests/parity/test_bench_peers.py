"""`bench.py --peer`: Diffusers' transformer agrees with ours; attention FLOPs count alike."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from benchmarks import parts
from benchmarks.settings import Settings
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.presets import PRESETS, Preset

TINY = Preset(
    TransformerConfig(
        dim=32, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=8, freq_dim=16
    ),
    VAEConfig(4, 16, (1, 1, 1), 1, (True, True), mean=(0.0,) * 16, std=(1.0,) * 16),
    TextEncoderConfig(vocab_size=160, dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1),
    shift=3.0,
    guidance=2.0,
    negative="",
    height=16,
    width=32,
)


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    return Settings("tiny", repeats=2, batch=1, peer=True)


def test_the_transformer_beside_diffusers(settings):
    result = parts.forward(settings)
    assert result["difference"] < 1e-5 and result["peer"].keys() == {"torch", "diffusers", "device"}
    ours, theirs = result["ours"], result["diffusers"]
    assert (
        ours["flop"] == theirs["flop"]
        and ours["seconds"]["repeats"] == theirs["seconds"]["repeats"] == 2
    )
    assert result["speed_over_diffusers"] == theirs["seconds"]["median"] / ours["seconds"]["median"]


def test_attention_beside_torch(settings):
    result = parts.attention(settings)["segments_1"]
    for way in ("forward", "forward_and_backward"):
        assert (
            result["torch"][way]["flop"] == result["xla_cpu"][way]["flop"]
            and result["torch"][way]["seconds"]["median"] > 0
        )
