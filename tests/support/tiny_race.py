"""A race small enough for a test: two layers, 7 chunks of 6 tokens a frame."""

from benchmarks.race_cases import WHOLE, RaceCase
from causalcine_jax.network_sizes import TransformerConfig

TINY_NETWORK = TransformerConfig(
    dim=64, ffn_dim=128, num_heads=2, num_layers=2, text_dim=32, text_len=8, freq_dim=16
)
TINY_RACE = RaceCase(chunks=7, grid=(2, 3), theirs=21, memory=WHOLE, network=TINY_NETWORK)
