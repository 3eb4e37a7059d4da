"""What the device attains of its peaks, in the sizes of a preset: the rates that plans reckon with.

products       a chunk's tokens by the transformer's square and feed-forward weights
attention      of one chunk to its receptive field
convolutions   12 frames by the VAE's decoder: all of its time counts
memory         an array of 1 GiB (CPU: 256 MiB, beyond any cache), read and written
launch_seconds one kernel in a program of dependent small ones; plans count kernels alike
"""

import json
from datetime import date

import jax
import jax.numpy as jnp

from benchmarks.flops import chip_of
from benchmarks.parts import stream
from benchmarks.settings import CHUNK_FRAMES, Settings, network, random_like
from benchmarks.timing import measure
from causalcine_jax.config import MemoryConfig
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.planning import attained
from causalcine_jax.planning.hardware import CHIPS
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.traffic import launches
from causalcine_jax.planning.jaxpr_flops import WIDE, flops_by_kind
from causalcine_jax.utils.atomic_file import write_json

ROUNDS = 1000
SPREAD = 0.1  # how far another run or size may be from a measured rate


def ceilings(settings: Settings) -> dict:
    """Returns operations and bytes per second by kind of work, and their fractions of the peaks.

    A fraction is None on a device whose peaks are unknown.
    """
    chip = CHIPS.get(chip_of(jax.devices()[0].device_kind) or "")
    found = {
        _width(settings): _products(settings),
        "attention": _attention(settings),
        "convolutions": _convolutions(settings),
    }
    result = {
        kind: {
            "flop_per_second": rate,
            "fraction": rate / chip.flops if chip else None,
        }
        for kind, rate in found.items()
    }
    moved = _memory(settings)
    result["memory"] = {
        "bytes_per_second": moved,
        "fraction": moved / chip.bandwidth if chip else None,
    }
    result["launch_seconds"] = {"seconds": _launch(settings)}
    return result


def keep_rates(record: dict, source: str) -> list[str]:
    """Writes a record's fractions to planning/attained.json; returns the kinds of work.

    Nothing is written where `why_not` says why.

    Args:
      source: where the record is.
    """
    if why_not(record):
        return []
    chip, measured = chip_of(record["device"]["kind"]), record["parts"]["ceilings"]
    rates = {kind: measured[kind]["fraction"] for kind in attained.KINDS[:-2] if kind in measured}
    rates["launch_seconds"] = measured["launch_seconds"]["seconds"]
    known = json.loads(attained.FILE.read_text(encoding="utf-8"))
    day = record.get("date", date.today().isoformat())[:10]
    for kind, rate in rates.items():
        known.setdefault(chip, {})[kind] = {
            "expected": float(f"{rate:.3g}"),
            "low": float(f"{(1 - SPREAD) * rate:.3g}"),
            "high": float(f"{min(1.0, (1 + SPREAD) * rate):.3g}"),
            "how": "measured",
            "source": f"{record['device']['kind']}, {day}, {source}",
        }
    write_json(attained.FILE, known)
    return list(rates)


def why_not(record: dict) -> str:
    """Why plans cannot reckon with a record's rates; empty if they can."""
    if "launch_seconds" not in record["parts"].get("ceilings", {}):
        return "ceilings were not measured"
    if record.get("settings", {}).get("dtype") == "float32":
        return "measured in float32, and peaks are those of bfloat16"
    kind = record["device"]["kind"]
    return "" if chip_of(kind) in CHIPS else f"plans do not know {kind}"


def _width(settings: Settings) -> str:
    return "wide products" if settings.transformer.dim >= WIDE else "narrow products"


def _products(settings: Settings) -> float:
    net, rows, dtype = (
        settings.transformer,
        CHUNK_FRAMES * settings.tokens,
        settings.inference_dtype,
    )
    x = random_like((rows, net.dim), dtype)
    square, into, out = (
        random_like(shape, dtype)
        for shape in ((net.dim, net.dim), (net.dim, net.ffn_dim), (net.ffn_dim, net.dim))
    )

    @jax.jit
    def layer(x, square, into, out):  # a layer's six square products and its feed-forward
        for _ in range(6):
            x = x @ square
        return (x @ into) @ out

    flop = 2 * rows * net.dim * (6 * net.dim + 2 * net.ffn_dim)
    return flop / _median(lambda: layer(x, square, into, out), settings)


def _attention(settings: Settings) -> float:
    net, policy, rows = settings.transformer, MemoryConfig(), CHUNK_FRAMES * settings.tokens
    keys = rows + (policy.window_chunks * CHUNK_FRAMES + policy.retrieved_frames) * settings.tokens
    q, k, v = (
        random_like((1, count, net.num_heads, net.head_dim), settings.inference_dtype)
        for count in (rows, keys, keys)
    )
    lengths, attend = jnp.full((1,), keys, jnp.int32), jax.jit(attention)
    return 4 * rows * keys * net.dim / _median(lambda: attend(q, k, v, lengths), settings)


def _convolutions(settings: Settings) -> float:
    net = network(settings, VAE)
    shape = (1, CHUNK_FRAMES, *settings.latent_size, settings.sizes.vae.z_dim)
    latents = random_like(shape, settings.inference_dtype)
    cache = net.decode_first(latents)[1]
    traced = type(net).decode_next.trace(net, cache, latents)
    flop = sum(flops_by_kind(traced.jaxpr).values())
    return flop / _median(stream(net.decode_next, cache, latents), settings)


def _memory(settings: Settings) -> float:
    numbers = 2**26 if jax.default_backend() == "cpu" else 2**28
    add, held = jax.jit(lambda x: x + 1, donate_argnums=0), [jnp.zeros(numbers)]

    def step():
        held[0] = add(held[0])
        return held[0]

    return 2 * 4 * numbers / _median(step, settings)


def _launch(settings: Settings) -> float:
    x = random_like((16, 16), settings.inference_dtype)
    many = jax.jit(lambda x: jax.lax.fori_loop(0, ROUNDS, lambda _, y: jnp.tanh(y @ x), x))
    program = many.lower(x).compile()
    text = program.as_text()
    assert text is not None  # only a backend that keeps no program has none
    return _median(lambda: program(x), settings) / launches(parse_hlo(text))


def _median(call, settings: Settings) -> float:
    return measure(call, settings.repeats)["median"]
