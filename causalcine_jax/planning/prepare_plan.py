"""Bytes and hours of `causalcine prepare` over a large folder, before it is begun.

    hours of video --kept--> hours of films -> films of a length -> bytes
    hours x a rate of every stage / the cores or devices that share it -> hours

Every row says where its number is from. Counted follows from sizes, or from FLOPs over the rate
that a chip attains (attained.json). Measured names its record. Assumed is a guess: a request's
`rates` replace those of RATES.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from causalcine_jax.clock import CHUNK_FRAMES, FPS
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.data.video.target import WAN_PATCH, WAN_TEXT_LEN
from causalcine_jax.errors import (
    UsageError,
    choice_faults,
    raise_faults,
    range_faults,
)
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.planning.attained import PRODUCTS, rates
from causalcine_jax.planning.hardware import CHIPS, target
from causalcine_jax.planning.jaxpr_flops import flops_by_kind
from causalcine_jax.story_schema import size_faults

HOUR = 3600
MOST = 10**12  # videos, hours or a rate: beyond this a number is a typing error
LEAST = 1e-9
VIDEO_ROW = 500  # bytes of what is known of a video, about
RECORD = "benchmarks/results/2026-11-28_shots_cpu.json"
INDEX_BYTES = 20  # of a chunk of a zarr shard: its offset and length, and its checksum


@dataclass(frozen=True)
class Known:
    """A number; how: measured (here), counted, assumed or given (by a flag); and its source."""

    value: float
    how: str
    source: str


RATES = {
    "kept": Known(0.5, "assumed", "share of the hours; then half a film is lost per video"),
    "shot": Known(4.0, "assumed", "seconds of a shot, for rows"),
    "scan": Known(0.1, "assumed", "core-seconds to read a second of 720p video small, for shots"),
    "shots": Known(0.533, "measured", f"core-seconds of transnet per second of video: {RECORD}"),
    "decode": Known(0.4, "assumed", "core-seconds to read a second of 720p video at the size"),
    "encode": Known(0.0, "counted", "seconds of film that a device encodes in a second"),
    "caption": Known(10.0, "assumed", "seconds of an answer of the captioner"),
    "rows": Known(1500.0, "assumed", "bytes in work/*.jsonl and films.jsonl per shot"),
}


@dataclass(frozen=True)
class PrepareRequest:
    """The arguments of `causalcine plan prepare`.

    devices, chip  that encode, and their kind
    cores          that read and scan
    at_once        requests that the captioner's server has at the same time
    rates          numbers that replace those of RATES
    """

    videos: int
    hours: float
    height: int = 480
    width: int = 832
    latent_frames: int = 60
    devices: int = 1
    cores: int = 1
    chip: str = "h200"
    at_once: int = 4
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        step = VAEConfig().spatial_stride * WAN_PATCH
        faults = [
            fault
            for name in ("videos", "latent_frames", "devices", "cores", "at_once")
            for fault in range_faults(name, getattr(self, name), 1, MOST)
        ]
        faults += [
            fault
            for name, value in {"hours": self.hours, **self.rates}.items()
            for fault in range_faults(name, value, LEAST, MOST)
        ]
        faults += [fault for name in self.rates for fault in choice_faults("rate", name, RATES)]
        faults += range_faults("kept", self.rates.get("kept", 1.0), 0, 1)
        if self.latent_frames % CHUNK_FRAMES:
            faults.append(f"latent_frames must be a multiple of {CHUNK_FRAMES}")
        faults += size_faults(self.height, self.width, (step, step))
        faults += choice_faults("chip", self.chip, CHIPS)
        raise_faults("plan", faults)


@dataclass(frozen=True)
class PlanRow:
    """A number of the plan; unit: bytes, hours, or what is counted."""

    name: str
    value: float
    unit: str
    how: str
    source: str


def prepare_plan(request: PrepareRequest) -> list[PlanRow]:
    """The plan of a request. Rows of bytes and hours follow from the row of films.

    Raises:
      UsageError: the videos are too short for films of this length.
    """
    known = _rates(request)
    rate = {name: each.value for name, each in known.items()}
    seconds, film = request.hours * HOUR, _frames(request.latent_frames) / FPS
    films = math.ceil(seconds * rate["kept"] / film - request.videos / 2)
    if films < 1:
        raise UsageError(
            f"videos of {seconds / request.videos:.1f} s leave no films of {film:.1f} s: "
            "choose fewer latent_frames"
        )
    kept = films * film
    spec = store_spec(request, films)
    latents = 2 * math.prod(spec.shapes()["latents"]) * films
    ids = films * spec.film_bytes - latents
    index = films * (spec.chunks + 2) * INDEX_BYTES
    rows = request.videos * VIDEO_ROW + seconds / rate["shot"] * rate["rows"]
    disk = 2 * latents + ids + index + rows
    scan = seconds * (rate["scan"] + rate["shots"]) / request.cores / HOUR
    captions = films * rate["caption"] / request.at_once / HOUR
    decode = kept * rate["decode"] / request.cores / HOUR
    encode = kept / rate["encode"] / request.devices / HOUR
    total = scan + captions + max(decode, encode)
    weakest = _source(known, ("scan", "shots", "caption", "decode", "encode"))[0]
    most = f"up to {spec.shots} shots a film, one per chunk: a store pads to its longest list"
    row = lambda name, value, unit, *rates: PlanRow(name, value, unit, *_source(known, rates))
    counted = lambda name, value, why, unit="bytes": PlanRow(name, value, unit, "counted", why)
    return [
        row("films", films, "films", "kept"),
        counted("latents in work/latents", latents, "float16, a file per film"),
        counted("latents in the stores", latents, "the same once more"),
        counted("token ids in the stores", ids, most),
        counted("index of the stores", index, "offsets and checksums of chunks"),
        row("rows and captions", rows, "bytes", "rows", "shot"),
        counted("on disk, first run", disk, "work/latents may be deleted at its end"),
        counted(
            "on disk, later runs",
            disk + latents + ids + index,
            "old stores until new ones are whole",
        ),
        row("scan for shots", scan, "hours", "scan", "shots"),
        counted("captions", films, "one per film", "requests"),
        row("captions", captions, "hours", "caption"),
        row("decoding for the VAE", decode, "hours", "decode"),
        row("VAE encoding", encode, "hours", "encode"),
        PlanRow("all stages", total, "hours", weakest, "decoding runs beside the VAE"),
    ]


def _rates(request: PrepareRequest) -> dict[str, Known]:
    counted = _encoding(request.height, request.width, request.latent_frames, request.chip)
    given = {name: Known(value, "given", f"--rate {name}") for name, value in request.rates.items()}
    return {**RATES, "encode": counted, **given}


def _source(known: Mapping[str, Known], names: tuple[str, ...]) -> tuple[str, str]:
    """How sure a product of these rates is: as its weakest factor. And the rates themselves."""
    order = ("assumed", "counted", "measured", "given")
    how = min((known[name].how for name in names), key=order.index)
    told = (f"{name} {known[name].value:.3g} ({known[name].source})" for name in names)
    return how, "; ".join(told)


def _frames(latent_frames: int) -> int:
    return VAEConfig().temporal_stride * (latent_frames - 1) + 1


def store_spec(request: PrepareRequest, films: int) -> StoreSpec:
    stride, shots = VAEConfig().spatial_stride, request.latent_frames // CHUNK_FRAMES
    size = request.height // stride, request.width // stride
    return StoreSpec(films, request.latent_frames, *size, shots, WAN_TEXT_LEN, {}, "", "")


@functools.cache
def _encoding(height: int, width: int, latent_frames: int, chip: str) -> Known:
    """Wan2.1's encoder counted, over what the chip attains."""
    hardware, frames = target(chip), _frames(latent_frames)
    vae = jax.eval_shape(lambda: VAE(VAEConfig(), key=jax.random.key(0)))
    video = jax.ShapeDtypeStruct((1, frames, height, width, 3), jnp.float32)
    flops = flops_by_kind(jax.make_jaxpr(VAE.encode)(vae, video))
    peak, attained = hardware.chip.flops, rates(hardware)  # `prepare` encodes in bfloat16
    seconds = sum(flops.get(kind, 0.0) / (peak * attained[kind].expected) for kind in PRODUCTS)
    share, tflop = attained["convolutions"], sum(flops.values()) / 1e12
    told = f"{tflop:.0f} TFLOP a film at {share.expected:g} of {chip}'s peak, {share.how}"
    return Known(frames / FPS / seconds, "counted", f"{RATES['encode'].source}; {told}")
