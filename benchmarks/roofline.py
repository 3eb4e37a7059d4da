"""How much of the machine's peaks a chunk of the race attains.

A part's floor is the longer of FLOP / peak and bytes / bandwidth. The peak of a dtype is the
fastest of all measurements (machine.py), by any library and kind of operation.
"""

from collections.abc import Callable

import jax.numpy as jnp

from benchmarks.bench import in_process
from benchmarks.machine import DTYPES, PASSES, PEAKS, WORK
from benchmarks.race_cases import CHUNK_FRAMES, RaceCase, precision

LIBRARIES = {"ours": "jax", "theirs": "torch"}


def roofline(
    cases: dict[str, RaceCase], measured: dict, dtype: str, torch: bool, say: Callable[[str], None]
) -> dict:
    """Measures peaks and parts by each installed library.

    `measured`: the race's record of these cases.
    """
    sides = {side: library for side, library in LIBRARIES.items() if torch or side == "ours"}
    say(f"{' and '.join(sides.values())}: peaks ...")
    exact = precision(dtype)
    peaks = {
        library: in_process("race_peaks", None, exact, library=library)["result"]
        for library in sides.values()
    }
    best = {
        "flop_per_second": max(found[name][dtype] for found in peaks.values() for name in PEAKS),
        "bytes_per_second": max(found["bytes_per_second"] for found in peaks.values()),
    }
    found: dict[str, dict[str, dict]] = {}
    for name, case in cases.items():
        say(f"{name}: parts ...")
        found[name] = {}
        for side, library in sides.items():
            frames = case.frames(side)
            seconds = in_process(
                "race_products",
                None,
                exact,
                library=library,
                case=case.to_dict(),
                dtype=dtype,
                frames=frames,
            )["result"]
            found[name][side] = attained(
                work(case, frames, dtype), seconds, measured[name][side]["by_chunk"][-1], best
            )
    return {"peaks": peaks, "best": {"dtype": dtype, **best}, "last_chunk": found}


def roofline_table(found: dict) -> list[str]:
    """Returns lines of Markdown: the peaks, then a row per case and side.

    A row has the seconds of each part of the last chunk, and what fraction of the peak that is.
    """
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


def work(case: RaceCase, frames: int, dtype: str) -> dict[str, dict[str, float]]:
    """Returns FLOP and least bytes of a chunk's parts, over all layers and passes.

    The chunk attends to `frames` latent frames. Norms, rotation, the patches' embedding and
    other small operations are left out.
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
    """Returns each part's floor, its seconds in a chunk, and floor over seconds.

    Does the same for the whole `chunk`. Its rest is the time that no part explains.
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
