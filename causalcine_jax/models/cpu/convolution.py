"""Convolution of videos by the CPU's own kernel (cpu/convolution.h), with its gradient.

XLA's convolutions on a CPU are slow with few channels, as in a VAE; their gradients more so.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.platform import platform

GRADIENT_CHANNELS = 8  # the weights' gradient needs a multiple of this


@dataclass(frozen=True)
class ConvWindow:
    """Where a convolution reads.

    frames  of y
    ahead   y's frame t reads x's frames from t + ahead on; frames outside x are zero
    pads    rows of zeros above and below, columns to the left and right
    """

    frames: int
    ahead: int
    pads: tuple[tuple[int, int], tuple[int, int]]

    def turned(self, x_frames: int, taps: tuple[int, ...]) -> "ConvWindow":
        """The window of the convolution that is x's gradient."""
        rows, columns = (
            (tap - 1 - before, tap - 1 - after)
            for tap, (before, after) in zip(taps[1:], self.pads, strict=True)
        )
        return ConvWindow(x_frames, 1 - taps[0] - self.ahead, (rows, columns))


def convolves(dtype) -> bool:
    """Whether the kernel convolves this dtype here. Not under a mesh: XLA shards only its own."""
    return (
        platform() == "cpu"
        and dtype == jnp.float32
        and active_mesh() is None
        and cpu_kernels.kernels() is not None
    )


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def convolve(
    x: Float[Array, "b t h w i"],
    weight: Float[Array, "kt kh kw i o"],
    bias: Float[Array, " o"],
    window: ConvWindow,
) -> Array:
    """y [b, window.frames, h', w', o], in float32. Call it only where `convolves` is true."""
    sides = (
        side + sum(pad) - tap + 1
        for side, pad, tap in zip(x.shape[2:4], window.pads, weight.shape[1:3], strict=True)
    )
    shape = jax.ShapeDtypeStruct((x.shape[0], window.frames, *sides, weight.shape[-1]), x.dtype)
    return jax.ffi.ffi_call(cpu_kernels.CONVOLUTION, shape, vmap_method="sequential")(
        x, weight, bias, **_begin(window)
    )


def _backward(window: ConvWindow, kept, gradient):
    x, weight = kept
    turned = jnp.swapaxes(weight[::-1, ::-1, ::-1], 3, 4)
    of_x = convolve(
        gradient,
        turned,
        jnp.zeros(x.shape[-1:], x.dtype),
        window.turned(x.shape[1], weight.shape[:3]),
    )
    outer = weight.shape[-1]
    gradient = jnp.pad(gradient, (*((0, 0),) * 4, (0, -outer % GRADIENT_CHANNELS)))
    shapes = (*weight.shape[:4], gradient.shape[-1]), gradient.shape[-1:]
    call = jax.ffi.ffi_call(
        cpu_kernels.CONVOLUTION_GRADIENT,
        [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes],
        vmap_method="sequential",
    )
    of_weight, of_bias = call(x, gradient, **_begin(window))
    return of_x, of_weight[..., :outer], of_bias[:outer]


convolve.defvjp(
    lambda x, weight, bias, window: (convolve(x, weight, bias, window), (x, weight)), _backward
)


def _begin(window: ConvWindow) -> dict[str, int]:
    return {"ahead": window.ahead, "top": window.pads[0][0], "left": window.pads[1][0]}
