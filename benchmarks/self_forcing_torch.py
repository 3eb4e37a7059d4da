"""A film as Self-Forcing makes it, in plain torch: the other side of `bench.py race`.

    noise -> velocity -> x0 -> fresh noise -> ... (4 steps) -> x0
        -> one pass at t = 0, which leaves clean keys and values

Written here from the published algorithm (guandeh17/Self-Forcing, wan/modules/causal_model.py
and pipeline/causal_inference.py), without any of its code.
Keys are stored rotated to their absolute positions.
A layer's cache is allocated once for all frames that a chunk attends to, its own included.
torch's scaled_dot_product_attention attends to the filled part.
Once the cache is full, its oldest frames roll out.
Two things are cheaper than in the published code: positions are rotated in complex64, not
complex128, and one modulation serves all frames of a chunk.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.network_sizes import TransformerConfig

TRAIN_TIMES = 1000
BASE = 10000.0
Weights = dict[str, torch.Tensor]  # named as in Wan2.1's checkpoints


class Cache:
    """Rotated keys and values of one layer: tokens of the film's newest frames, oldest first."""

    def __init__(self, tokens: int, like: torch.Tensor):
        self.k, self.v = (
            torch.zeros(tokens, *like.shape[1:], dtype=like.dtype, device=like.device)
            for _ in range(2)
        )
        self.filled, self.end = 0, 0  # tokens held, tokens of the film so far

    def put(
        self, k: torch.Tensor, v: torch.Tensor, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores [t, h, d] of the film's tokens from `start` on; returns all held.

        They replace what an earlier step left there.
        """
        if start + len(k) > self.end:
            if (over := self.filled + len(k) - len(self.k)) > 0:
                for held in (self.k, self.v):
                    held[: self.filled - over] = held[over : self.filled].clone()
                self.filled -= over
            self.filled, self.end = self.filled + len(k), start + len(k)
        own = slice(self.filled - len(k), self.filled)
        self.k[own], self.v[own] = k, v
        return self.k[: self.filled], self.v[: self.filled]


class SelfForcingFilm:
    """One film: its prompt, its history, and the network that makes the next chunk."""

    def __init__(
        self,
        weights: Weights,
        config: TransformerConfig,
        grid: tuple[int, int],
        frames: int,
        text: torch.Tensor,
    ):
        """Begins a film.

        Args:
          weights: named as in Wan2.1's checkpoints.
          config: the transformer's sizes.
          grid: rows and columns of tokens in a latent frame.
          frames: latent frames that a chunk attends to, its own included.
          text: the embedded prompt [tokens, text_dim]; its dtype and device are the film's.
        """
        self.weights, self.config, self.grid, self.tokens = weights, config, grid, grid[0] * grid[1]
        self.blocks = [_under(f"blocks.{i}.", weights) for i in range(config.num_layers)]
        self.dtype, self.device = text.dtype, text.device
        padded = torch.zeros(config.text_len, config.text_dim, dtype=self.dtype, device=self.device)
        padded[: len(text)] = text
        context = self._linear(
            "text_embedding.2", gelu(self._linear("text_embedding.0", padded), approximate="tanh")
        )
        self.prompt = [self._keys_and_values(block, context) for block in self.blocks]
        self.caches = [Cache(frames * self.tokens, self.prompt[0][0]) for _ in self.blocks]

    @torch.no_grad()
    def chunk(
        self, noise: torch.Tensor, fresh: torch.Tensor, first: int, sampler: SamplerConfig
    ) -> torch.Tensor:
        """Makes and commits the chunk that begins with the film's frame `first`.

        Args:
          noise: float32 [f, h, w, c].
          fresh: float32 [steps - 1, f, h, w, c].
          first: the chunk's first latent frame.
          sampler: its step_list and shift are used.

        Returns:
          x0, float32 [f, h, w, c].
        """
        steps = sampler.step_list
        assert steps is not None
        sigmas = [_trained_sigma(t, sampler.shift) for t in steps]
        turns = self._turns(first, len(noise))
        x = noise
        for step, (t, sigma) in enumerate(zip(steps, sigmas, strict=True)):
            x0 = x - sigma * self._velocity(x, t, first, turns)
            if step + 1 < len(steps):
                x = (1 - sigmas[step + 1]) * x0 + sigmas[step + 1] * fresh[step]
        self._velocity(x0, 0.0, first, turns)
        return x0

    def _velocity(self, x: torch.Tensor, t: float, first: int, turns: torch.Tensor) -> torch.Tensor:
        """Returns float32 [f, h, w, c]. Every layer's cache then holds the chunk of this pass."""
        config, frames = self.config, len(x)
        h = torch.nn.functional.conv3d(
            x.to(self.dtype).permute(3, 0, 1, 2)[None],
            self.weights["patch_embedding.weight"],
            self.weights["patch_embedding.bias"],
            stride=config.patch_size,
        )
        h = h[0].flatten(1).T
        e = self._linear(
            "time_embedding.2", silu(self._linear("time_embedding.0", self._sinusoid(t)))
        )
        e0 = self._linear("time_projection.1", silu(e)).reshape(6, -1)
        for block, cache, prompt in zip(self.blocks, self.caches, self.prompt, strict=True):
            h = self._block(
                block,
                h,
                e0,
                prompt,
                lambda k, v, cache=cache: cache.put(k, v, first * self.tokens),
                turns,
            )
        shift, scale = self.weights["head.modulation"][0] + e
        patches = self._linear("head.head", self._norm(h) * (1 + scale) + shift).float()
        rows, columns = self.grid
        _, height, width = config.patch_size
        patches = patches.reshape(frames, rows, columns, height, width, -1)
        return patches.permute(0, 1, 3, 2, 4, 5).reshape(x.shape)

    def _block(
        self, block: Weights, h: torch.Tensor, e0: torch.Tensor, prompt, put: Callable, turns
    ) -> torch.Tensor:
        """Applies one layer to tokens h [t, d].

        `put` takes the chunk's keys and values and returns those to attend to.
        """
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = block["modulation"][0] + e0
        y = self._norm(h) * (1 + scale_sa) + shift_sa
        q, k, v = (_apply(block, f"self_attn.{name}", y) for name in "qkv")
        q, k = (
            self._rms(block[f"self_attn.norm_{name}.weight"], z) for name, z in (("q", q), ("k", k))
        )
        q, k = (_rotated(self._heads(z), turns) for z in (q, k))
        h = h + _apply(block, "self_attn.o", _attend(q, *put(k, self._heads(v)))) * gate_sa
        y = self._norm(h) * block["norm3.weight"] + block["norm3.bias"]
        q = self._heads(
            self._rms(block["cross_attn.norm_q.weight"], _apply(block, "cross_attn.q", y))
        )
        h = h + _apply(block, "cross_attn.o", _attend(q, *prompt))
        y = self._norm(h) * (1 + scale_ff) + shift_ff
        return (
            h
            + _apply(block, "ffn.2", gelu(_apply(block, "ffn.0", y), approximate="tanh")) * gate_ff
        )

    def _keys_and_values(
        self, block: Weights, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        k = self._rms(block["cross_attn.norm_k.weight"], _apply(block, "cross_attn.k", context))
        return self._heads(k), self._heads(_apply(block, "cross_attn.v", context))

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return _apply(self.weights, name, x)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x.float(), x.shape[-1:], eps=self.config.eps).to(x.dtype)

    def _rms(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.eps)).to(
            x.dtype
        ) * weight

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.config.num_heads, -1))

    def _sinusoid(self, t: float) -> torch.Tensor:
        half = self.config.freq_dim // 2
        angles = t * BASE ** (-np.arange(half) / half)
        return torch.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)])).to(
            self.device, self.dtype
        )

    def _turns(self, first: int, frames: int) -> torch.Tensor:
        """Returns the complex factors of a chunk's channel pairs, [t, 1, pairs]."""
        dim = self.config.head_dim
        space = 2 * (dim // 6)
        rows, columns = self.grid
        positions = np.meshgrid(
            first + np.arange(frames), np.arange(rows), np.arange(columns), indexing="ij"
        )
        sizes = (dim - 2 * space, space, space)
        frequencies = [BASE ** (-np.arange(0, n, 2) / n) for n in sizes]
        angles = [
            np.outer(at.ravel(), each) for at, each in zip(positions, frequencies, strict=True)
        ]
        turns = np.exp(1j * np.concatenate(angles, axis=1)).astype(np.complex64)
        return torch.from_numpy(turns)[:, None].to(self.device)


def _under(prefix: str, weights: Weights) -> Weights:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _apply(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotates x [t, h, d], whose neighbouring channels are a pair, in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attends: q [t, h, d], k and v [s, h, d] -> [t, h * d]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)


def _trained_sigma(t: float, shift: float) -> float:
    """Returns the noise level of the training time nearest to t."""
    position = np.arange(TRAIN_TIMES, 0, -1) / TRAIN_TIMES
    table = shift * position / (1 + (shift - 1) * position)
    return float(table[np.argmin(np.abs(TRAIN_TIMES * table - t))])
