"""The convolutions of the VAE and of TAEHV, in the fastest form per platform; the sums are equal.

CPU, float32, one device  our kernel (cpu/convolution.py). It needs only stride 1: for stride 2,
                          squares of pixels become channels.
CPU otherwise             XLA's 2-D convolutions, with time taps as input channels, because XLA's
                          3-D convolutions are slow.
other platforms           XLA's convolutions as they are.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.models.cpu.convolution import ConvWindow, convolve, convolves
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.platform import platform

Frames = Float[Array, "b t h w i"]
Weight2d = Float[Array, "kh kw i o"]
Convolved = Float[Array, "b t y x o"]  # of a size that stride and padding decide
AROUND = ((1, 1), (1, 1))


def conv_init(key, shape) -> Array:
    """Uniform with variance 1 / fan_in."""
    fan_in = shape[-2] * shape[-3] * shape[-4]
    bound = (3.0 / fan_in) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def causal_conv3d(
    x: Frames, weight: Float[Array, "3 3 3 i o"], bias: Float[Array, " o"], *, from_zero: bool
) -> Float[Array, "b t-2 h w o"]:
    """3x3x3 convolution of t+2 frames to t, zero padding in space only.

    from_zero: the first two frames are zeros.
    """
    if convolves(weight.dtype):  # the kernel skips zeros before x
        return convolve(
            x[:, 2:] if from_zero else x,
            weight,
            bias,
            ConvWindow(x.shape[1] - 2, -2 if from_zero else 0, AROUND),
        )
    # An image has zeros before it: convolve one frame instead of three.
    if from_zero and x.shape[1] == 3:
        return conv2d(x[:, 2:], weight[2], bias)
    return conv3d(x, weight) + bias


def conv3d(x: Frames, weight: Float[Array, "3 3 3 i o"]) -> Float[Array, "b t-2 h w o"]:
    """XLA's 3x3x3 convolution of t+2 frames into t, zero padding in space only."""
    if platform() != "cpu":
        return jax.lax.conv_general_dilated(
            x, weight, (1, 1, 1), ((0, 0), *AROUND), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
    frames = x.shape[1] - 2
    taps = jnp.concatenate([x[:, k : k + frames] for k in range(3)], axis=-1)
    return _by_frames(taps, einops.rearrange(weight, "k kh kw i o -> kh kw (k i) o"), 1, AROUND)


def conv2d(x: Frames, weight: Weight2d, bias: Float[Array, " o"] | None, pads=AROUND) -> Convolved:
    """Convolution of every frame by itself, stride 1."""
    x = x.astype(weight.dtype)
    if convolves(weight.dtype):
        bias = jnp.zeros(weight.shape[-1:], weight.dtype) if bias is None else bias
        return convolve(x, weight[None], bias, ConvWindow(x.shape[1], 0, pads))
    y = _by_frames(x, weight, 1, pads)
    return y if bias is None else y + bias


def halving_conv2d(
    x: Frames, weight: Float[Array, "3 3 i o"], bias: Float[Array, " o"]
) -> Float[Array, "b t h//2 w//2 o"]:
    """3x3 convolution with stride 2, zeros only below and to the right, as in the reference."""
    x = x.astype(weight.dtype)
    if not convolves(weight.dtype):
        return _by_frames(x, weight, 2, ((0, 1), (0, 1))) + bias
    # Squares of pixels become channels. The window covers two by two squares; the last row and
    # column have zero weights.
    squares = einops.rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
    weight = jnp.pad(weight, ((0, 1), (0, 1), (0, 0), (0, 0)))
    return conv2d(
        squares,
        einops.rearrange(weight, "(y p) (x q) i o -> y x (p q i) o", p=2, q=2),
        bias,
        ((0, 1), (0, 1)),
    )


def doubling_conv2d(
    x: Frames, weight: Float[Array, "3 3 i o"], bias: Float[Array, " o"] | None
) -> Float[Array, "b t 2*h 2*w o"]:
    """Doubles height and width by repeating pixels, then a 3x3 convolution.

    On a CPU it runs at x's own size. Two of three taps read the same pixel, so each of the four
    output pixels of one input pixel is a 2x2 convolution: 16 products instead of 36.
    """
    if platform() != "cpu" or active_mesh() is not None:
        return conv2d(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3), weight, bias)
    # The upper of two output rows reads (the row above, its own twice), the lower one (its own
    # twice, the row below). Columns are alike.
    meets = jnp.array(
        [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], weight.dtype
    )  # [which of two, tap, of three]
    by_tap = jnp.einsum("pyk,qxl,klio->yxipqo", meets, meets, weight, precision="highest")
    bias = None if bias is None else jnp.tile(bias, 4)
    y = conv2d(x, by_tap.reshape(*by_tap.shape[:3], -1), bias)
    height, width, outer = *x.shape[2:4], weight.shape[-1]
    y = y.reshape(*y.shape[:4], 2, 2, outer)
    rows = [
        jnp.stack([y[:, :, p : p + height, q : q + width, p, q] for q in (0, 1)], axis=4)
        for p in (0, 1)
    ]
    return einops.rearrange(jnp.stack(rows, axis=3), "b t h p w q o -> b t (h p) (w q) o")


def _by_frames(x: Frames, weight: Weight2d, stride: int, pads) -> Convolved:
    y = jax.lax.conv_general_dilated(
        einops.rearrange(x, "b t h w c -> (b t) h w c"),
        weight,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return einops.rearrange(y, "(b t) h w o -> b t h w o", b=x.shape[0])
