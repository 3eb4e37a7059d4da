"""One vision transformer for CLIP, DINO, DINOv2 and ViCLIP, and ViCLIP's text encoder.

    pixels -> patches -> class token first -> + positions -> layers -> norm -> the class token

They differ in a few parts, and the checkpoint says which of them are there:

    CLIP      a norm before the layers, QuickGELU, a projection after them
    DINO      a bias of the patches, GELU; DINOv2 also a scale per channel after every branch
    ViCLIP    CLIP over the patches of all frames together, with a position per frame

Sources: openai/CLIP clip/model.py, facebookresearch/dino vision_transformer.py,
facebookresearch/dinov2, and VBench's vbench/third_party/ViCLIP. Layers are stacked and scanned.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.models import nn
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.utils.arrays import AnyArray

HEAD_DIM = 64  # of every network here
CLIP_EPS, DINO_EPS = 1e-5, 1e-6


@dataclass(frozen=True)
class LayerSizes:
    """The layers of a transformer. `scaled`: each branch has a scale per channel (DINOv2)."""

    dim: int
    mlp_dim: int
    count: int
    quick: bool
    eps: float
    scaled: bool = False


@dataclass(frozen=True)
class ViTSizes:
    """A vision transformer.

    patch      pixels of a patch's side
    positions  of the class token and of the patches of a square picture
    frames     of a clip, for ViCLIP; 0 reads single pictures
    out        width after the projection; 0 without one
    """

    layers: LayerSizes
    patch: int
    positions: int
    frames: int = 0
    out: int = 0

    @property
    def clip(self) -> bool:
        """CLIP's and ViCLIP's parts: a norm before the layers and no bias of the patches."""
        return self.out > 0


@dataclass(frozen=True)
class TextSizes:
    """ViCLIP's text encoder; `length` tokens at most, start and end included."""

    layers: LayerSizes
    vocabulary: int
    length: int
    out: int


class Layer(nn.Module):
    """Self-attention and a feed-forward, each of the normed input, each added to it."""

    def __init__(self, sizes: LayerSizes, *, key):
        keys = jax.random.split(key, 6)
        self.sizes = sizes
        self.norm1, self.norm2 = nn.LayerNorm(sizes.dim), nn.LayerNorm(sizes.dim)
        self.q, self.k, self.v, self.o = (nn.Linear(sizes.dim, sizes.dim, key=k) for k in keys[:4])
        self.fc1 = nn.Linear(sizes.dim, sizes.mlp_dim, key=keys[4])
        self.fc2 = nn.Linear(sizes.mlp_dim, sizes.dim, key=keys[5])
        self.scale1 = nn.Param(jnp.ones((sizes.dim,))) if sizes.scaled else None
        self.scale2 = nn.Param(jnp.ones((sizes.dim,))) if sizes.scaled else None

    def __call__(self, x: Float[Array, "b t d"], causal: bool = False) -> Float[Array, "b t d"]:
        y = self.norm1(x, self.sizes.eps)
        q, k, v = (part(y).reshape(*y.shape[:2], -1, HEAD_DIM) for part in (self.q, self.k, self.v))
        if causal:
            attended = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")
        else:
            attended = attention(q, k, v)
        x = x + _scaled(self.o(attended.reshape(y.shape)), self.scale1)
        hidden = self.fc1(self.norm2(x, self.sizes.eps))
        hidden = _quick_gelu(hidden) if self.sizes.quick else jax.nn.gelu(hidden, approximate=False)
        return x + _scaled(self.fc2(hidden), self.scale2)


def _scaled(x: Array, scale: nn.Param | None) -> Array:
    return x if scale is None else x * scale[...].astype(x.dtype)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _through(
    layers: Layer, x: Float[Array, "b t d"], causal: bool = False
) -> Float[Array, "b t d"]:
    return jax.lax.scan(lambda x, layer: (layer(x, causal), None), x, layers)[0]


class ViT(nn.Module):
    """Pictures or clips to one feature each."""

    def __init__(self, sizes: ViTSizes, *, key):
        dim, pixels = sizes.layers.dim, 3 * sizes.patch**2
        keys = jax.random.split(key, 6)
        normal = lambda key, *shape: nn.Param(dim**-0.5 * jax.random.normal(key, shape))
        self.sizes = sizes
        self.patch = nn.Param(
            pixels**-0.5 * jax.random.normal(keys[0], (sizes.patch, sizes.patch, 3, dim))
        )
        self.patch_bias = None if sizes.clip else nn.Param(jnp.zeros((dim,)))
        self.class_token = normal(keys[1], dim)
        self.positions = normal(keys[2], sizes.positions, dim)
        self.frame_positions = normal(keys[3], sizes.frames, dim) if sizes.frames else None
        self.norm_first = nn.LayerNorm(dim) if sizes.clip else None
        self.layers = nn.stack_init(
            lambda k: Layer(sizes.layers, key=k), sizes.layers.count, keys[4]
        )
        self.norm_last = nn.LayerNorm(dim)
        self.projection = normal(keys[5], dim, sizes.out) if sizes.out else None

    def __call__(
        self,
        pixels: Float[AnyArray, "b *f h w 3"],
        positions: Float[AnyArray, "n d"] | None = None,
    ) -> Float[Array, "b o"]:
        """The feature of every picture, or of every clip of `frames` pictures, in float32.

        Args:
          pixels: normalised as the network expects it; sides beyond whole patches are cut off.
          positions: for another picture size than the one trained for (`preprocess.positions_for`).
        """
        dtype = self.patch[...].dtype
        x = self._patches(jnp.asarray(pixels, dtype))
        x = x if self.patch_bias is None else x + self.patch_bias[...].astype(dtype)
        where = jnp.asarray(self.positions[...] if positions is None else positions, dtype)
        first = jnp.broadcast_to(
            self.class_token[...].astype(dtype) + where[0], (len(x), 1, x.shape[-1])
        )
        x = x + where[1:]
        if self.frame_positions is not None:
            x = x + self.frame_positions[...].astype(dtype)[:, None]
        x = jnp.concatenate([first, x.reshape(len(x), -1, x.shape[-1])], axis=1)
        eps = self.sizes.layers.eps
        x = x if self.norm_first is None else self.norm_first(x, eps)
        x = self.norm_last(_through(self.layers, x)[:, 0], eps)
        if self.projection is not None:
            x = x @ self.projection[...].astype(dtype)
        return x.astype(jnp.float32)

    def _patches(self, pixels: Float[Array, "b *f h w 3"]) -> Float[Array, "b *f n d"]:
        p = self.sizes.patch
        *batch, height, width, _ = pixels.shape
        rows, columns = height // p, width // p
        x = pixels[..., : rows * p, : columns * p, :]
        x = x.reshape(*batch, rows, p, columns, p, 3)
        x = jnp.moveaxis(x, -4, -3).reshape(*batch, rows * columns, -1)
        return x @ self.patch[...].reshape(-1, self.sizes.layers.dim)


class TextEncoder(nn.Module):
    """ViCLIP's text encoder: the feature at the end token, the largest id of a text."""

    def __init__(self, sizes: TextSizes, *, key):
        dim = sizes.layers.dim
        tokens, positions, layers, out = jax.random.split(key, 4)
        self.sizes = sizes
        self.tokens = nn.Param(0.02 * jax.random.normal(tokens, (sizes.vocabulary, dim)))
        self.positions = nn.Param(0.01 * jax.random.normal(positions, (sizes.length, dim)))
        self.layers = nn.stack_init(
            lambda k: Layer(sizes.layers, key=k), sizes.layers.count, layers
        )
        self.norm_last = nn.LayerNorm(dim)
        self.projection = nn.Param(dim**-0.5 * jax.random.normal(out, (dim, sizes.out)))

    def __call__(self, ids: Int[AnyArray, "b t"]) -> Float[Array, "b o"]:
        """The feature of every text, in float32; `ids` are padded with 0 after the end token."""
        ids = jnp.asarray(ids)
        x = self.tokens[...][ids] + self.positions[...][: ids.shape[1]]
        x = self.norm_last(_through(self.layers, x, causal=True), self.sizes.layers.eps)
        x = jnp.take_along_axis(x, jnp.argmax(ids, axis=1)[:, None, None], axis=1)[:, 0]
        return (x @ self.projection[...].astype(x.dtype)).astype(jnp.float32)
