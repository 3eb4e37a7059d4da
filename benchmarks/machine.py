"""Measures what the machine can do, each library in a process of its own, on all cores.

peaks     products, convolutions, attention and memory traffic of sizes that suit the machine,
          by jax or by torch
products  the parts of a chunk of the race at its own sizes, by jax or by torch
"""

from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp

from benchmarks.race_cases import CHUNK_FRAMES, STEP_LIST, RaceCase
from benchmarks.settings import random_like, random_network
from benchmarks.timing import timed
from causalcine_jax.cli import cores
from causalcine_jax.models import dit
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.models.dit import Transformer

SIDE = 2048  # of the square matrices
CONVOLVED = (4, 64, 64, 128)  # frames, height, width, channels in and out; taps are 3 x 3
ATTENDED = (1024, 2048, 4, 128)  # queries, keys, heads, channels of a head
COPIED = 2**26  # numbers of float32, far beyond any cache
REPEATS = 7
PASSES = len(STEP_LIST) + 1  # of a chunk: its steps and its commit
DTYPES = ("float32", "bfloat16")
PEAKS = ("product", "convolution", "attention")
WORK = ("projections", "feed_forward", "attention", "cross_attention")


def peaks(library: str) -> dict:
    """Returns FLOP per second by dtype of a square product, a convolution and attention.

    Also returns bytes per second read and written.
    """
    calls = {"jax": _jax_peaks, "torch": _torch_peaks}[library]
    result: dict[str, dict[str, float]] = {name: {} for name in PEAKS}
    frames, height, width, channels = CONVOLVED
    queries, keys, heads, dim = ATTENDED
    flop = {
        "product": 2 * SIDE**3,
        "convolution": 2 * frames * height * width * 9 * channels**2,
        "attention": 4 * queries * keys * heads * dim,
    }
    for dtype in DTYPES:
        found = calls(dtype)
        for name in flop:
            result[name][dtype] = flop[name] / _shortest(found[name])
    return {**result, "bytes_per_second": 2 * 4 * COPIED / _shortest(found["copy"])}


def products(library: str, case: dict, dtype: str, frames: int) -> dict[str, float]:
    """Returns the seconds of a chunk's parts, over all layers and passes.

    The chunk attends to `frames` latent frames.
    """
    asked = RaceCase.from_dict(case)
    calls = {"jax": _jax_products, "torch": _torch_products}[library](asked, dtype, frames)
    times = asked.network.num_layers * PASSES
    return {name: times * median(_seconds(call)) for name, call in calls.items()}


def _jax_peaks(dtype: str) -> dict[str, Callable]:
    square, image = random_like((SIDE, SIDE), dtype), random_like(CONVOLVED, dtype)
    taps = random_like((3, 3, CONVOLVED[-1], CONVOLVED[-1]), dtype)
    queries, keys, heads, dim = ATTENDED
    q, k = random_like((1, queries, heads, dim), dtype), random_like((1, keys, heads, dim), dtype)
    product, attend = jax.jit(jnp.matmul), jax.jit(attention)
    axes = ("NHWC", "HWIO", "NHWC")
    convolve = jax.jit(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes)
    )
    # In place, because for new memory the system's zeroing would be timed too.
    add, held = jax.jit(lambda x: x + 1, donate_argnums=0), [jnp.zeros(COPIED)]

    def copy() -> jax.Array:
        held[0] = add(held[0])
        return held[0]

    return {
        "product": lambda: product(square, square),
        "convolution": lambda: convolve(image, taps),
        "attention": lambda: attend(q, k, k),
        "copy": copy,
    }


def _torch_peaks(dtype: str) -> dict[str, Callable]:
    torch, tensor = _torch(dtype)
    square, image = tensor((SIDE, SIDE)), tensor(CONVOLVED).permute(0, 3, 1, 2)
    taps = tensor((CONVOLVED[-1], 3, 3, CONVOLVED[-1])).permute(0, 3, 1, 2)
    queries, keys, heads, dim = ATTENDED
    q, k = tensor((1, heads, queries, dim)), tensor((1, heads, keys, dim))
    held = torch.zeros(COPIED, device=square.device)
    return {
        "product": lambda: torch.matmul(square, square),
        "convolution": lambda: torch.nn.functional.conv2d(image, taps, padding=1),
        "attention": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k),
        "copy": lambda: held.add_(1),
    }


def _jax_products(case: RaceCase, dtype: str, frames: int) -> dict[str, Callable]:
    net, own = case.network, CHUNK_FRAMES * case.tokens
    blocks = random_network(Transformer, (net,), jnp.dtype(dtype)).blocks
    block = jax.tree.map(lambda leaf: leaf[0], blocks)
    heads = lambda count: random_like((1, count, net.num_heads, net.head_dim), dtype)
    x = random_like((1, 1, own, net.dim), dtype)
    q, k, prompt = heads(own), heads(frames * case.tokens), heads(net.text_len)

    @jax.jit
    def project(block, x):
        attn, cross = block.self_attn, block.cross_attn
        return [layer(x) for layer in (attn.q, attn.k, attn.v, attn.o, cross.q, cross.o)]

    feed, attend = jax.jit(dit.feed_forward), jax.jit(attention)
    return {
        "projections": lambda: project(block, x),
        "feed_forward": lambda: feed(block, x),
        "attention": lambda: attend(q, k, k),
        "cross_attention": lambda: attend(q, prompt, prompt),
    }


def _torch_products(case: RaceCase, dtype: str, frames: int) -> dict[str, Callable]:
    torch, tensor = _torch(dtype)
    functional = torch.nn.functional
    net, own = case.network, CHUNK_FRAMES * case.tokens
    square, bias, x = (
        [tensor((net.dim, net.dim)) for _ in range(6)],
        tensor((net.dim,)),
        tensor((own, net.dim)),
    )
    into, out, wide = (
        tensor((net.ffn_dim, net.dim)),
        tensor((net.dim, net.ffn_dim)),
        tensor((net.ffn_dim,)),
    )
    heads = lambda count: tensor((count, net.num_heads, net.head_dim)).transpose(0, 1)[None]
    q, k, prompt = heads(own), heads(frames * case.tokens), heads(net.text_len)
    attend, linear = functional.scaled_dot_product_attention, functional.linear
    return {
        "projections": lambda: [linear(x, weight, bias) for weight in square],
        "feed_forward": lambda: linear(
            functional.gelu(linear(x, into, wide), approximate="tanh"), out, bias
        ),
        "attention": lambda: attend(q, k, k),
        "cross_attention": lambda: attend(q, prompt, prompt),
    }


def _torch(dtype: str) -> tuple:
    """Returns torch, on all cores and without gradients, and a maker of random tensors."""
    import torch

    torch.set_num_threads(len(cores()))
    torch.set_grad_enabled(False)
    torch.backends.cudnn.allow_tf32 = False  # its products have full float32 by default
    how = {"dtype": getattr(torch, dtype), "device": "cuda" if torch.cuda.is_available() else "cpu"}
    return torch, lambda shape: torch.randn(shape, **how)


def _shortest(call: Callable) -> float:
    return min(_seconds(call))


def _seconds(call: Callable) -> list[float]:
    def done():
        result = call()
        _wait(result)
        return result

    timed(done)
    return [timed(done) for _ in range(REPEATS)]


def _wait(result) -> None:
    """Waits for a GPU on which torch computes; `timed` waits for jax's results."""
    first = result[0] if isinstance(result, list) else result
    if getattr(first, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
