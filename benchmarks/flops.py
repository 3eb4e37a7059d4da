"""FLOPs that a result needs, counted by hand: two for each multiply-add of a matrix product.

    a segment (a chunk's tokens) and the tokens that it attends to
      -> products with weights, products of activations -> films -> an update

The receptive field counts as far as it is filled: what a back end multiplies beyond its length is
waste. Recomputation in a backward pass is waste too. Not counted, as each is less than a hundredth:
norms, activations, softmax, routing scores, RoPE, the optimizer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from causalcine_jax.config import MemoryConfig
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.planning.hardware import CHIPS

# The chip for a jax device kind with this prefix.
KINDS = {
    "NVIDIA H200": "h200",
    "NVIDIA H100": "h100",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
}


def chip_of(device_kind: str) -> str | None:
    """The name in `CHIPS` of a device of that kind; None if plans do not know it."""
    if device_kind.endswith((" PCIe", " NVL")):  # other clocks and memory than SXM's
        return None
    return next((name for start, name in KINDS.items() if device_kind.startswith(start)), None)


def peak(device_kind: str, dtype: str = "bfloat16") -> float | None:
    """Dense FLOP/s of a device of that kind; None if unknown."""
    chip = CHIPS.get(chip_of(device_kind) or "")
    return (
        None if chip is None else {"bfloat16": chip.flops, "float8": chip.float8 or None}.get(dtype)
    )


@dataclass(frozen=True)
class Flops:
    """FLOPs of a forward pass.

    dense      products with weights
    attention  products of activations with activations
    """

    dense: float = 0
    attention: float = 0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.dense + other.dense, self.attention + other.attention)

    def __rmul__(self, times: float) -> "Flops":
        return Flops(times * self.dense, times * self.attention)

    @property
    def forward(self) -> float:
        return self.dense + self.attention

    @property
    def trained(self) -> float:
        """With the backward pass to weights and inputs."""
        return 3 * self.forward

    @property
    def passed_through(self) -> float:
        """With the backward pass to inputs only.

        Frozen weights cost one more product, attention two.
        """
        return 2 * self.dense + 3 * self.attention


@dataclass(frozen=True)
class FilmFlops:
    """FLOPs of films that go through a transformer, all of one length.

    tokens  per latent frame
    shots   prompts per film
    """

    config: TransformerConfig
    memory: MemoryConfig
    films: int
    chunks: int
    tokens: int
    shots: int
    chunk_frames: int = 3

    @property
    def window_only(self) -> "FilmFlops":
        """The same films without memory."""
        return replace(self, memory=self.memory.window_only)

    def packed(self, last: int | None = None) -> Flops:
        """`teacher_forced`: all clean chunks except the last, and the last `last` noisy ones.

        None means all noisy ones.
        """
        return self.commits(range(self.chunks - 1)) + self.against_pool(last)

    def against_pool(self, last: int | None = None) -> Flops:
        """`pool_forced`: noisy chunks only."""
        return self.noisy(last) + self.prompts()

    def noisy(self, last: int | None = None) -> Flops:
        """`against_pool` without the prompts, such as the part of a pass that carries gradient."""
        keys = [
            self.keys(i)
            for i in range(self.chunks - (self.chunks if last is None else last), self.chunks)
        ]
        return self._segments(keys, len(keys))

    def noisy_stream(self, last: int | None = None, layers: int | None = None) -> Flops:
        """`noisy_causal`: one stream, of which the last `last` chunks are read.

        Args:
          layers: read features after so many layers; None reads the velocity.
        """
        read = 0 if layers is not None else self.chunks if last is None else last
        return (
            self._segments([self.keys(i) for i in range(self.chunks)], read, layers)
            + self.prompts()
        )

    def rollout(self, steps: float) -> Flops:
        """Every chunk denoised in `steps` steps, and committed."""
        return steps * self.noisy() + self.commits(range(self.chunks)) + self.prompts()

    def commits(self, chunks: Iterable[int]) -> Flops:
        """These chunks committed to a cache, one after the other."""
        return self._segments([self.keys(i, clean=True) for i in chunks], 0)

    def prompts(self) -> Flops:
        """Keys and values of every shot's prompt for cross-attention."""
        c = self.config
        return Flops(
            self.films
            * self.shots
            * 2
            * c.text_len
            * (c.text_dim * c.dim + c.dim**2 + c.num_layers * 2 * c.dim**2)
        )

    def keys(self, chunk: int, *, clean: bool = False) -> int:
        """Tokens that a chunk attends to: its own and its receptive field's."""
        earlier = chunk * self.chunk_frames
        window = min(earlier, self.memory.window_chunks * self.chunk_frames)
        field = window + min(earlier - window, self.memory.retrieved_frames)
        reaches_all = clean and not self.memory.route_clean
        return (self.chunk_frames + (earlier if reaches_all else field)) * self.tokens

    def _segments(self, keys: Iterable[int], read: int, layers: int | None = None) -> Flops:
        return self.films * segments(
            self.config, self.chunk_frames * self.tokens, keys, read, layers
        )


def segments(
    config: TransformerConfig, own: int, keys: Iterable[int], read: int, layers: int | None = None
) -> Flops:
    """One pass of segments of `own` tokens each, without the prompts' keys and values.

    Args:
      keys: for each segment, the tokens that it attends to.
      read: segments that end in a velocity.
    """
    keys, dim = list(keys), config.dim
    layers = config.num_layers if layers is None else layers
    # Self-attention's q, k, v, o; cross-attention's q, o; feed-forward.
    token = 4 * dim**2 + 2 * dim**2 + 2 * dim * config.ffn_dim
    patch = math.prod(config.patch_size) * dim
    time = config.freq_dim * dim + dim**2 + 6 * dim**2
    skip = config.skip_dim * (dim + math.prod(config.patch_size) * (config.in_dim + config.out_dim))
    dense = len(keys) * (layers * own * token + own * patch * config.in_dim + time) + read * own * (
        patch * config.out_dim + skip
    )
    attended = sum(keys) + len(keys) * config.text_len
    return Flops(2 * dense, 2 * layers * own * 2 * dim * attended)


def text_encoder_flops(config: TextEncoderConfig, prompts: int, length: int) -> Flops:
    """`prompts` prompts, padded to `length` tokens, through the text encoder."""
    token = 4 * config.dim * config.dim_attn + 3 * config.dim * config.dim_ffn
    tokens = prompts * length
    return Flops(
        2 * config.num_layers * tokens * token,
        2 * config.num_layers * tokens * 2 * config.dim_attn * length,
    )
