"""The GAN's head: one logit per film, from features inside a denoiser (paper 3.4, Eq. 11).

    features of some layers [B, N, tokens, D] -> learned queries read the tokens of all chunks
    -> concatenation over layers -> logit

A film of any length gives one logit. A key has its chunk's place in the film, so that queries can
compare early chunks with late ones: the head is there against drift (paper, Appendix C). Public
heads of this kind also use one to three learned tokens per layer, which read the whole film (APT,
arXiv 2501.08316; Self-Forcing).
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from causalcine_jax.models.dit import sinusoid
from causalcine_jax.models.nn import LayerNorm, Linear, Module, Param, layer_norm, stack_init
from causalcine_jax.parallel.sharding import all_gather_params

QUERIES = 4  # per layer; each gives a quarter of the width
EPS = 1e-6


class Discriminator(Module):
    """A head on `layers` tapped layers of a transformer of width `dim`.

    Parameters that differ between layers are stacked on a leading axis.
    """

    def __init__(self, dim: int, layers: int, *, key):
        key_queries, key_project, key_hidden, key_logit = jax.random.split(key, 4)
        width = max(1, dim // QUERIES)
        self.queries = Param(0.02 * jax.random.normal(key_queries, (layers, QUERIES, dim)))
        self.project = stack_init(lambda k: Linear(dim, width, key=k), layers, key_project)
        self.norm = LayerNorm(layers * QUERIES * width)
        self.hidden = Linear(layers * QUERIES * width, width, key=key_hidden)
        # A small last layer, so that an untrained head is near chance on any input.
        self.logit = Linear(width, 1, key=key_logit, std=0.02)

    def __call__(
        self, features: tuple[Float[Array, "b n t d"], ...], first: int | Int[Array, ""] = 0
    ) -> Float[Array, " b"]:
        """The logit that each film is real, float32.

        Args:
          features: one array per tapped layer, from `teacher_forced` with config.features.
          first: place in the film of the first of their chunks.
        """

        chunks, width = features[0].shape[1], features[0].shape[-1]
        place = sinusoid(first + jnp.arange(float(chunks)), width)[:, None]  # [n, 1, d]

        def read(queries, project, tokens):
            tokens = layer_norm(tokens, EPS)
            scores = jnp.einsum("bntd,qd->bqnt", tokens + place, queries.astype(jnp.float32))
            weights = jax.nn.softmax(scores, axis=(-2, -1))
            return project(jnp.einsum("bqnt,bntd->bqd", weights, tokens))

        head = all_gather_params(self)
        layers = jax.vmap(read)(head.queries[...], head.project, jnp.stack(features))
        film = head.norm(rearrange(layers, "l b q d -> b (l q d)"), EPS)
        return head.logit(jax.nn.silu(head.hidden(film)))[:, 0].astype(jnp.float32)
