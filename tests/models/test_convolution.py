"""The VAE's convolutions, by our CPU kernel and rearranged, against XLA's: values, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from causalcine_jax.models.cpu import convolution as cpu_convolution
from causalcine_jax.models.cpu import kernels as cpu_kernels
from causalcine_jax.models.cpu.convolution import ConvWindow, convolve
from causalcine_jax.models.cpu.norm import norm_silu
from causalcine_jax.models.vae import convolution
from causalcine_jax.models.vae.layers import ChannelNorm

AROUND = ((1, 1), (1, 1))


@pytest.fixture(params=["own kernel", "XLA"])
def path(request, monkeypatch):
    """Both implementations on a CPU."""
    if request.param == "XLA":
        monkeypatch.setattr(convolution, "convolves", lambda dtype: False)
    elif cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def plain(x, weight, bias, pads, strides=(1, 1, 1)):
    y = lax.conv_general_dilated(
        x, weight, strides, pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision="highest"
    )
    return y + bias


def assert_same_with_gradients(ours, theirs, *arguments):
    """Values and the gradients of all arguments, to 2e-6 of their norms."""
    gradient = random(*jax.eval_shape(theirs, *arguments).shape, seed=9)
    pull = lambda f: jax.jit(lambda *a: (lambda y, back: (y, *back(gradient)))(*jax.vjp(f, *a)))(
        *arguments
    )
    for a, b in zip(pull(ours), pull(theirs), strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - np.asarray(b)) <= 2e-6 * np.linalg.norm(b)


@pytest.mark.parametrize(
    "shape, outer",
    [
        ((1, 2, 4, 5, 3), 5),  # ragged in everything
        ((2, 4, 7, 13, 8), 8),  # half registers
        ((1, 3, 5, 6, 24), 40),
        ((3, 1, 3, 5, 13), 12),  # pictures
        ((1, 3, 1, 1, 96), 128),  # weights that do not stay in the caches
        ((1, 2, 50, 90, 48), 16),  # frames cut into parts
    ],
)
@pytest.mark.parametrize("ahead", [-2, 0])
def test_the_kernel_is_xlas_convolution(shape, outer, ahead):
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    frames = shape[1] if ahead else shape[1] + 1
    x = random(*(shape if ahead else (shape[0], frames + 2, *shape[2:])))
    weight, bias = random(3, 3, 3, shape[-1], outer, seed=1), random(outer, seed=2)
    window = ConvWindow(frames, ahead, AROUND)
    theirs = lambda x, w, b: plain(x, w, b, ((-ahead, 0), *AROUND))
    assert_same_with_gradients(lambda x, w, b: convolve(x, w, b, window), theirs, x, weight, bias)


def test_windows_of_other_sizes():
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    x, weight, bias = random(2, 3, 6, 5, 4), random(1, 2, 3, 4, 8, seed=1), random(8, seed=2)
    pads = ((0, 1), (2, 0))
    window = ConvWindow(3, 0, pads)
    assert_same_with_gradients(
        lambda *a: convolve(*a, window), lambda *a: plain(*a, ((0, 0), *pads)), x, weight, bias
    )


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_causal_convolution_sees_two_frames_before(path, from_zero, frames):
    x, weight, bias = (
        random(2, frames + 2, 4, 6, 3),
        random(3, 3, 3, 3, 5, seed=1),
        random(5, seed=2),
    )
    x[:, :2] *= 0 if from_zero else 1
    x = jax.device_put(x)
    theirs = lambda w, b: plain(x, w, b, ((0, 0), *AROUND))
    assert_same_with_gradients(
        lambda w, b: convolution.causal_conv3d(x, w, b, from_zero=from_zero), theirs, weight, bias
    )


def test_halving_is_a_convolution_of_stride_two(path):
    x, weight, bias = random(2, 2, 6, 8, 3), random(3, 3, 3, 5, seed=1), random(5, seed=2)
    theirs = lambda x, w, b: plain(x, w[None], b, ((0, 0), (0, 1), (0, 1)), (1, 2, 2))
    assert_same_with_gradients(convolution.halving_conv2d, theirs, x, weight, bias)


def test_doubling_is_a_convolution_of_repeated_pixels(path):
    x, weight, bias = random(2, 2, 3, 4, 3), random(3, 3, 3, 5, seed=1), random(5, seed=2)
    theirs = lambda x, w, b: plain(x.repeat(2, 2).repeat(2, 3), w[None], b, ((0, 0), *AROUND))
    assert_same_with_gradients(convolution.doubling_conv2d, theirs, x, weight, bias)


@pytest.mark.parametrize("channels", [8, 24, 16, 96])
def test_the_norms_kernel_is_xlas_norm(channels):
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    x, gamma = 3 * random(2, 1100, channels), random(channels, seed=1)  # two tasks

    def theirs(x, gamma):
        norm = ChannelNorm(channels)
        norm.gamma[...] = gamma
        return jax.nn.silu(norm(x))

    assert_same_with_gradients(norm_silu, theirs, x, gamma)
    assert_same_with_gradients(
        norm_silu, theirs, x, 300 * gamma
    )  # beyond what an exponential can hold


def test_the_norm_of_nothing_and_of_nan():
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    x = np.zeros((3, 8), np.float32)
    x[1, 2] = np.nan

    @jax.jit
    def value_and_gradient(x):
        y, back = jax.vjp(norm_silu, x, jnp.ones(8))
        return y, back(jnp.ones_like(y))[0]

    y, gradient = map(np.asarray, value_and_gradient(x))
    assert np.isnan(y[1]).all() and not y[[0, 2]].any()
    assert np.isfinite(gradient[[0, 2]]).all()


def test_the_kernel_is_for_one_cpu_and_float32(monkeypatch):
    if cpu_kernels.kernels() is None:
        pytest.skip(cpu_kernels.missing())
    assert cpu_convolution.convolves(jnp.float32) and not cpu_convolution.convolves(jnp.bfloat16)
    monkeypatch.setattr(cpu_kernels, "kernels", lambda: None)
    assert not cpu_convolution.convolves(jnp.float32)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not cpu_convolution.convolves(jnp.float32)
