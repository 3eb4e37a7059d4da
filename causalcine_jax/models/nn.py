"""The basic layers of every network here, as typed parameter trees.

This is the only file that decides how parameters are held (flax NNX). Modules keep `nnx.Param`s and
static sizes, but no caches, RNG, mesh or mode flags. No nnx transform is used anywhere: `jax.jit`,
`jax.lax.scan` and `jax.grad` treat the modules as plain pytrees. A layer computes in the dtype of
its weights; norms compute in float32 (Wan2.1's rule).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from causalcine_jax.models import float8
from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.platform import platform

LARGE_PRODUCT = 2**23  # multiplications; smaller ones are faster by our kernel

Param = nnx.Param
Module = nnx.Module


def fan_in_uniform(key, shape, fan_in: int) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def xavier_uniform(key, shape, fan_in: int, fan_out: int) -> Array:
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class LowRank(Module):
    """x down up, with down [in, rank] and up [rank, out]; zero until it is trained.

    The first values are peft's: uniform in `down`, nothing in `up`.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, *, key):
        self.down = Param(fan_in_uniform(key, (d_in, rank), d_in))
        self.up = Param(jnp.zeros((rank, d_out)))

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        down = self.down[...]
        return (x.astype(down.dtype) @ down) @ self.up[...]


class Linear(Module):
    """y = x W + b with W [in, out], computed in W's dtype.

    With a `scale`, W is float8 and [out, in] (models/float8.py), and y has b's dtype. With an
    `adapter`, its result is added (models/lora.py).
    """

    def __init__(self, d_in: int, d_out: int, *, key, bias: bool = True, std: float | None = None):
        weight = (
            xavier_uniform(key, (d_in, d_out), d_in, d_out)
            if std is None
            else std * jax.random.normal(key, (d_in, d_out))
        )
        self.weight = Param(weight)
        self.bias = Param(jnp.zeros((d_out,))) if bias else None
        self.scale: Param | None = None
        self.adapter: LowRank | None = None

    def __call__(
        self, x: Float[Array, "*b i"], precision: str | None = None
    ) -> Float[Array, "*b o"]:
        """The output; `precision` "highest" keeps accelerators from rounding float32 inputs."""
        y = self._product(x, precision)
        return y if self.adapter is None else y + self.adapter(x).astype(y.dtype)

    def _product(self, x: Float[Array, "*b i"], precision: str | None) -> Float[Array, "*b o"]:
        weight = self.weight[...]
        if self.scale is not None:
            assert self.bias is not None
            y = float8.product(x, weight, self.scale[...], dtype=self.bias[...].dtype)
        elif (precision is None and _rounds_products(weight)) or _multiplies_in_tiles(x, weight):
            y = _rounded_product(x, weight)
            y = y if self.bias is None else y + self.bias[...].astype(y.dtype)
            return y.astype(weight.dtype)
        elif _has_own_product(weight):
            bias = (
                jnp.zeros(weight.shape[1:], weight.dtype)
                if self.bias is None
                else self.bias[...].astype(weight.dtype)
            )
            y = cpu_kernels.linear(x.astype(weight.dtype).reshape(-1, x.shape[-1]), weight, bias)
            return y.reshape(*x.shape[:-1], -1)
        else:
            y = jnp.einsum("...i,io->...o", x.astype(weight.dtype), weight, precision=precision)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def adapt(self, adapter: LowRank) -> None:
        """Takes an adapter, of stacked layers where this one is."""
        self.adapter = nnx.data(adapter)

    def quantize(self) -> None:
        """Converts the weight, of stacked layers, to float8 in place."""
        weight, scale = float8.columns(self.weight[...])
        self.weight, self.scale = Param(weight), nnx.data(Param(scale))


def _multiplies_in_tiles(x: Array, weight: Array) -> bool:
    """Whether a product of bfloat16 is faster by XLA with a sum in float32, which AMX computes.

    Our kernel is faster for small products, and XLA's with a sum in bfloat16 is always slower.
    """
    if platform() != "cpu" or weight.dtype != jnp.bfloat16 or weight.ndim != 2:
        return False
    large = math.prod(x.shape) * weight.shape[-1] >= LARGE_PRODUCT
    return cpu_kernels.has_tiles() and (large or not _has_own_product(weight))


def _rounds_products(weight: Array) -> bool:
    """Whether this product rounds its factors to bfloat16."""
    return platform() == "cpu" and weight.dtype == jnp.float32 and cpu_kernels.rounds_products()


@jax.custom_vjp
def _rounded_product(x: Float[Array, "*b i"], weight: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """x W of values rounded to bfloat16, summed in float32, and so its gradients.

    Processors with AMX multiply so three to five times as fast as in float32, where XLA is asked
    for a sum in float32. The gradient of a rounded product's sum would be a product in float32, so
    it is given here.
    """
    return _rounded_forward(x, weight)[0]


def _rounded_forward(x, weight):
    dtypes = jnp.zeros(0, x.dtype), jnp.zeros(0, weight.dtype)  # of the gradients
    x, weight = x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    y = jnp.einsum("...i,io->...o", x, weight, preferred_element_type=jnp.float32)
    return y, (x, weight, dtypes)


def _rounded_backward(inputs, gradient):
    x, weight, (of_x, of_weight) = inputs
    gradient = gradient.astype(jnp.bfloat16)
    rows = (tuple(range(x.ndim - 1)),) * 2
    d_x = jnp.einsum("...o,io->...i", gradient, weight, preferred_element_type=jnp.float32)
    d_weight = jax.lax.dot_general(
        x, gradient, (rows, ((), ())), preferred_element_type=jnp.float32
    )
    return d_x.astype(of_x.dtype), d_weight.astype(of_weight.dtype)


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


def _has_own_product(weight: Array) -> bool:
    """Whether the CPU's kernel multiplies this weight.

    Under a mesh XLA does, because it can shard only its own products.
    """
    return (
        platform() == "cpu"
        and weight.ndim == 2
        and active_mesh() is None
        and cpu_kernels.multiplies(weight.dtype)
    )


class RMSNorm(Module):
    """x / rms(x) * weight over the last axis (Wan2.1 WanRMSNorm).

    Statistics are float32; the result is cast back before the product with the weight.
    """

    def __init__(self, dim: int):
        self.weight = Param(jnp.ones((dim,)))

    def __call__(self, x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
        return normed.astype(x.dtype) * self.weight[...].astype(x.dtype)


class LayerNorm(Module):
    """LayerNorm with weight and bias; computed in float32, returned in x's dtype."""

    def __init__(self, dim: int):
        self.weight = Param(jnp.ones((dim,)))
        self.bias = Param(jnp.zeros((dim,)))

    def __call__(self, x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
        y = layer_norm(x, eps) * self.weight[...].astype(jnp.float32) + self.bias[...].astype(
            jnp.float32
        )
        return y.astype(x.dtype)


def layer_norm(x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
    """LayerNorm without weight and bias, in float32."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps)


def stack_init(make, count: int, key):
    """`count` modules `make(key)`, each with its own key, stacked on a leading axis."""
    return jax.vmap(make)(jax.random.split(key, count))


# Wan2.1 computes these in float32 (`wan/modules/model.py`): they affect every token, so rounding
# them is visible.
FLOAT32_PARTS = ("norm", "modulation", "time_embedding", "time_projection")


def stays_float32(name: str) -> bool:
    """Whether a parameter, such as `head.weight`, is of those that compute in float32.

    These are norms, modulation, the time embedding, and the transformer's head and input skip.
    The output of head and skip is divided by the noise level where clean latents are predicted.
    """
    parts = set(name.split("."))
    return any(part in name for part in FLOAT32_PARTS) or (
        bool(parts & {"head", "skip"}) and not parts & {"encoder", "decoder"}
    )


def cast_weights(tree, dtype):
    """Casts networks to the dtypes that they compute in.

    Parameters that stay in float32 are left as they are; all others get `dtype`.
    """

    def cast(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return leaf if stays_float32(name) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, tree)
