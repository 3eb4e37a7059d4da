"""A VAE's norm and SiLU by our CPU kernel (cpu/norm.h), with its gradient; one read per input."""

import jax
from jaxtyping import Array, Float

from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.models.cpu.convolution import convolves

CHANNELS = 8  # the kernel needs a multiple of this


def normalizes(dtype, channels: int) -> bool:
    """Whether the kernel supports this dtype and number of channels here."""
    return channels % CHANNELS == 0 and convolves(dtype)


@jax.custom_vjp
def norm_silu(x: Float[Array, "*b c"], gamma: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """silu(x / max(|x|, 1e-12) * sqrt(c) * gamma) in float32, |x| over the channels.

    Call it only where `normalizes` is true.
    """
    return jax.ffi.ffi_call(cpu_kernels.NORM, x, vmap_method="sequential")(x, gamma)


def _backward(kept, gradient):
    return tuple(
        jax.ffi.ffi_call(cpu_kernels.NORM_GRADIENT, kept, vmap_method="sequential")(*kept, gradient)
    )


norm_silu.defvjp(lambda x, gamma: (norm_silu(x, gamma), (x, gamma)), _backward)
