"""What the machine can do, measured, and how much of that a chunk of the race attains: what is left to win.

    peaks     products, convolutions, attention and memory traffic of sizes that suit the machine, by jax and by torch
    products  the parts of a chunk at the race's own sizes, by jax and by torch
    roofline  both beside the race's seconds; a part's floor is the longer of FLOP / peak and bytes / bandwidth

The peak is the fastest of all that was measured in a dtype, whichever library and kind of operation it was.
Everything is timed in a process of its own per library, which has all cores.
"""

from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp

from benchmarks.bench import in_process
from benchmarks.race_cases import CHUNK_FRAMES, PEER, Case
from benchmarks.settings import random_like, random_network
from benchmarks.timing import timed
from causalcine_jax.cli import cores
from causalcine_jax.models import dit
from causalcine_jax.models.attention.backends import attention

SIDE = 2048  # of the square matrices
CONVOLVED = (4, 64, 64, 128)  # frames, height, width, channels; 3 x 3 taps to as many channels
ATTENDED = (1024, 2048, 4, 128)  # queries, keys, heads, channels of a head
COPIED = 2**26  # numbers of float32, far beyond any cache
REPEATS = 7
PASSES = len(PEER.sampler.step_list) + 1  # of a chunk: its steps and the one that commits it
LIBRARIES = {"ours": "jax", "theirs": "torch"}
DTYPES = ("float32", "bfloat16")
PEAKS = ("product", "convolution", "attention")
WORK = ("projections", "feed_forward", "attention", "cross_attention")


def roofline(
    cases: dict[str, Case], measured: dict, dtype: str, torch: bool, say: Callable[[str], None]
) -> dict:
    """Peaks and parts by each library that is there. measured: what the race's record says of these cases."""
    sides = {side: library for side, library in LIBRARIES.items() if torch or side == "ours"}
    say(f"{' and '.join(sides.values())}: peaks ...")
    peaks = {
        library: in_process("race_peaks", None, library=library)["result"]
        for library in sides.values()
    }
    best = {
        "flop_per_second": max(found[name][dtype] for found in peaks.values() for name in PEAKS),
        "bytes_per_second": max(found["bytes_per_second"] for found in peaks.values()),
    }
    found = {}
    for name, case in cases.items():
        say(f"{name}: parts ...")
        found[name] = {}
        for side, library in sides.items():
            frames = case.frames(side)
            given = {"library": library, "case": case.to_dict(), "dtype": dtype, "frames": frames}
            seconds = in_process("race_products", None, **given)["result"]
            found[name][side] = attained(
                work(case, frames, dtype), seconds, measured[name][side]["by_chunk"][-1], best
            )
    return {"peaks": peaks, "best": {"dtype": dtype, **best}, "last_chunk": found}


def roofline_table(found: dict) -> list[str]:
    """Lines of Markdown: the peaks, then of every case's last chunk the seconds of each part and how much of the peak that is."""
    lines = ["", "| peak | jax | torch |", "|---|---|---|"]
    show = lambda value, unit: "" if value is None else f"{value / 1e9:.0f} G{unit}/s"
    of = lambda name, dtype: [
        found["peaks"].get(library, {}).get(name, {}).get(dtype) for library in LIBRARIES.values()
    ]
    for name in PEAKS:
        lines += [
            f"| {name}, {dtype} | {' | '.join(show(rate, 'FLOP') for rate in of(name, dtype))} |"
            for dtype in DTYPES
        ]
    moved = [
        found["peaks"].get(library, {}).get("bytes_per_second") for library in LIBRARIES.values()
    ]
    lines += [f"| memory | {' | '.join(show(rate, 'B') for rate in moved)} |", ""]
    names = (*WORK, "chunk")
    lines += [
        f"| last chunk of | {' | '.join(name.replace('_', ' ') for name in names)} | rest |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, sides in found["last_chunk"].items():
        for side, held in sides.items():
            cells = [*held["parts"].values(), held["chunk"]]
            cells = [f"{cell['seconds']:.2f} s, {cell['attained']:.0%}" for cell in cells]
            lines.append(
                f"| {name}, {side} | {' | '.join(cells)} | {held['chunk']['rest_seconds']:.2f} s |"
            )
    return lines


def work(case: Case, frames: int, dtype: str) -> dict[str, dict[str, float]]:
    """FLOP and least bytes of a chunk's parts, all layers and passes, where it sees `frames` latent frames.

    Norms, rotation, the patches' embedding and the like are left out.
    """
    net, own, size = case.network, CHUNK_FRAMES * case.tokens, jnp.dtype(dtype).itemsize
    keys, hidden = frames * case.tokens, net.ffn_dim
    # Multiply-adds, and numbers read or written: weights, operands and results once each.
    parts = (
        (6 * own * net.dim**2, 6 * (net.dim**2 + 2 * own * net.dim)),
        (2 * own * net.dim * hidden, 2 * net.dim * hidden + 2 * own * (net.dim + hidden)),
        (2 * own * keys * net.dim, 2 * (own + keys) * net.dim),
        (2 * own * net.text_len * net.dim, 2 * (own + net.text_len) * net.dim),
    )
    calls = net.num_layers * PASSES
    counted = dict(zip(WORK, parts, strict=True))
    return {
        name: {"flop": 2 * calls * adds, "bytes": size * calls * moved}
        for name, (adds, moved) in counted.items()
    }


def attained(
    parts: dict[str, dict], seconds: dict[str, float], chunk: float, best: dict[str, float]
) -> dict:
    """Each part's floor, its seconds in a chunk, and the one as a fraction of the other.

    So for the whole `chunk`; its rest is what no part explains.
    """
    out = {}
    for name, part in parts.items():
        floor = max(
            part["flop"] / best["flop_per_second"], part["bytes"] / best["bytes_per_second"]
        )
        out[name] = {
            **part,
            "floor_seconds": floor,
            "seconds": seconds[name],
            "attained": floor / seconds[name],
        }
    floor, explained = (
        sum(part[key] for part in out.values()) for key in ("floor_seconds", "seconds")
    )
    whole = {
        "floor_seconds": floor,
        "seconds": chunk,
        "attained": floor / chunk,
        "rest_seconds": chunk - explained,
    }
    return {"chunk": whole, "parts": out}


def peaks(library: str) -> dict:
    """FLOP per second by dtype of a square product, a convolution and attention; bytes per second read and written."""
    calls = {"jax": _jax_peaks, "torch": _torch_peaks}[library]
    result = {name: {} for name in PEAKS}
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
    result["bytes_per_second"] = 2 * 4 * COPIED / _shortest(found["copy"])
    return result


def products(library: str, case: dict, dtype: str, frames: int) -> dict[str, float]:
    """Seconds of a chunk's parts, all layers and passes, where it sees `frames` latent frames."""
    asked = Case.from_dict(case)
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
    # In place: of new memory the system's zeroing would be counted too.
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


def _jax_products(case: Case, dtype: str, frames: int) -> dict[str, Callable]:
    net, own = case.network, CHUNK_FRAMES * case.tokens
    block = jax.tree.map(
        lambda leaf: leaf[0], random_network("transformer", (net,), jnp.dtype(dtype)).blocks
    )
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


def _torch_products(case: Case, dtype: str, frames: int) -> dict[str, Callable]:
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
    """torch, on all cores and without gradients, and what makes random tensors on its device."""
    import torch

    torch.set_num_threads(len(cores()))
    torch.set_grad_enabled(False)
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
    """For a GPU on which torch computes; jax's results are waited for by `timed`."""
    first = result[0] if isinstance(result, list) else result
    if getattr(first, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
