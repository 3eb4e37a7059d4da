"""Bytes and hours of `causalcine prepare` over a large folder, before it is begun.

    hours of video --kept--> hours of films -> films of each length -> bytes
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
from causalcine_jax.data.video.config import length_faults
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
UNITS = ("bytes", "hours")  # of what stages add to each other
EMBEDDING = 768  # numbers of a shot's embedding by a ViT-B, of two bytes each
INDEX_BYTES = 20  # of a chunk of a zarr shard: its offset and length, and its checksum


@dataclass(frozen=True)
class Known:
    """A number; how: measured (here), counted, assumed or given (by a flag); and its source."""

    value: float
    how: str
    source: str


RATES = {
    "kept": Known(0.5, "assumed", "share of the hours; then half a film is lost in every run"),
    "runs": Known(1.0, "assumed", "runs of shots per video, between those that filters drop"),
    "shot": Known(4.0, "assumed", "seconds of a shot, for rows"),
    "scan": Known(0.1, "assumed", "core-seconds to read a second of 720p video small, for shots"),
    "shots": Known(0.533, "measured", f"core-seconds of transnet per second of video: {RECORD}"),
    "decode": Known(0.4, "assumed", "core-seconds to read a second of 720p video at the size"),
    "encode": Known(0.0, "counted", "seconds of film that a device encodes in a second"),
    "caption": Known(10.0, "assumed", "seconds of an answer of the captioner"),
    "embed": Known(1.0, "assumed", "core-seconds of a shot's embedding by a ViT-B"),
    "compare": Known(5e7, "assumed", "pairs of shots compared in a second, by one device"),
    "rows": Known(1500.0, "assumed", "bytes in work/*.jsonl and films.jsonl per shot"),
}


@dataclass(frozen=True)
class PrepareRequest:
    """The arguments of `causalcine plan prepare`.

    devices, chip  that encode, and their kind
    cores          that read and scan
    at_once        requests that the captioner's server has at the same time
    rates          numbers that replace those of RATES
    shorter        latent frames of shorter films, made of what is left of a run of shots
    embed_shots    whether copies are found by embeddings too (`prepare --duplicates-weights`)
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
    shorter: tuple[int, ...] = ()
    embed_shots: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Latent frames of the films, from the longest to the shortest."""
        return self.latent_frames, *self.shorter

    def __post_init__(self):
        step = VAEConfig().spatial_stride * WAN_PATCH
        faults = [
            fault
            for name in ("videos", "latent_frames", "devices", "cores", "at_once")
            for fault in range_faults(name, getattr(self, name), 1, MOST)
        ]
        faults += length_faults(self.lengths)
        faults += [
            fault
            for name, value in {"hours": self.hours, **self.rates}.items()
            for fault in range_faults(name, value, LEAST, MOST)
        ]
        faults += [fault for name in self.rates for fault in choice_faults("rate", name, RATES)]
        faults += range_faults("kept", self.rates.get("kept", 1.0), 0, 1)
        if any(frames % CHUNK_FRAMES for frames in self.lengths):
            faults.append(f"latent_frames must be a multiple of {CHUNK_FRAMES}")
        faults += size_faults(self.height, self.width, (step, step))
        faults += choice_faults("chip", self.chip, CHIPS)
        raise_faults("plan", faults)


@dataclass(frozen=True)
class PlanRow:
    """A number of the plan; unit: bytes (on disk), GB (of memory), hours, or what is counted."""

    name: str
    value: float
    unit: str
    how: str
    source: str


def prepare_plan(request: PrepareRequest) -> list[PlanRow]:
    """The plan of a request. Rows of bytes and hours follow from the rows of films.

    Raises:
      UsageError: the videos are too short for films of these lengths.
    """
    given = {name: Known(value, "given", f"--rate {name}") for name, value in request.rates.items()}
    seconds = request.hours * HOUR
    kept, runs = ((RATES | given)[name].value for name in ("kept", "runs"))
    counts = _films(request.lengths, seconds * kept, request.videos * runs)
    films = sum(counts.values())
    if films < 1:
        raise UsageError(
            f"videos of {seconds / request.videos:.1f} s leave no films of "
            f"{_seconds(request.lengths[-1]):.1f} s: choose fewer latent_frames"
        )
    known = RATES | {"encode": _encoding(request, counts)} | given
    rate = {name: each.value for name, each in known.items()}
    filmed = sum(count * _seconds(frames) for frames, count in counts.items())
    specs = [
        (count, store_spec(request, frames, count)) for frames, count in counts.items() if count
    ]
    latents = sum(2 * math.prod(spec.shapes()["latents"]) * count for count, spec in specs)
    ids = sum(count * spec.film_bytes for count, spec in specs) - latents
    index = sum(count * (spec.chunks + 2) * INDEX_BYTES for count, spec in specs)
    shots = seconds / rate["shot"]
    rows = request.videos * VIDEO_ROW + shots * rate["rows"]
    embeddings = _embedding_rows(request, known, shots) if request.embed_shots else []
    embedded = {unit: sum(row.value for row in embeddings if row.unit == unit) for unit in UNITS}
    disk = 2 * latents + ids + index + rows + embedded["bytes"]
    scan = seconds * (rate["scan"] + rate["shots"]) / request.cores / HOUR
    captions = films * rate["caption"] / request.at_once / HOUR
    decode = filmed * rate["decode"] / request.cores / HOUR
    encode = filmed / rate["encode"] / request.devices / HOUR
    total = scan + embedded["hours"] + captions + max(decode, encode)
    more = ("embed", "compare") if request.embed_shots else ()
    weakest = _source(known, ("scan", "shots", "caption", "decode", "encode", *more))[0]
    most = "one shot per chunk at most: a store pads to its longest list"
    row = functools.partial(_row, known)
    counted = lambda name, value, why, unit="bytes": PlanRow(name, value, unit, "counted", why)
    lengths = [
        row(f"films of {frames} latent frames", count, "films", "kept", "runs")
        for frames, count in counts.items()
    ]
    return [
        row("films", films, "films", "kept", "runs"),
        *(lengths if request.shorter else []),
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
        *embeddings,
        counted("captions", films, "one per film", "requests"),
        row("captions", captions, "hours", "caption"),
        row("decoding for the VAE", decode, "hours", "decode"),
        row("VAE encoding", encode, "hours", "encode"),
        PlanRow("all stages", total, "hours", weakest, "decoding runs beside the VAE"),
    ]


def _embedding_rows(
    request: PrepareRequest, known: Mapping[str, Known], shots: float
) -> list[PlanRow]:
    """What finding copies by embeddings adds: bytes on disk and hours; and what memory it needs."""
    rate = {name: each.value for name, each in known.items()}
    text = 4 * math.ceil(2 * EMBEDDING / 3)  # base64
    embed = shots * rate["embed"] / request.cores / HOUR
    # At most: shots that filters drop are not compared, and how many is not known.
    compare = shots**2 / 2 / rate["compare"] / HOUR
    row = functools.partial(_row, known)
    return [
        row("embeddings in work/*.jsonl", shots * text, "bytes", "shot"),
        row("memory of embeddings", 2 * EMBEDDING * shots / 1e9, "GB", "shot"),
        row("embedding shots", embed, "hours", "embed", "shot"),
        row("comparing embeddings", compare, "hours", "compare", "shot"),
    ]


def _row(known: Mapping[str, Known], name: str, value: float, unit: str, *rates: str) -> PlanRow:
    """A number that follows from these rates."""
    return PlanRow(name, value, unit, *_source(known, rates))


def _films(lengths: tuple[int, ...], kept: float, runs: float) -> dict[int, int]:
    """How many films of each length `kept` seconds give, in so many runs of shots.

    On average half a film of a length is left at a run's end. It goes to the next shorter one.
    """
    rest, counts = kept / runs, {}
    for frames in lengths:
        each = max(rest / _seconds(frames) - 0.5, 0.0)
        counts[frames] = math.ceil(runs * each)
        rest -= each * _seconds(frames)
    return counts


def _source(known: Mapping[str, Known], names: tuple[str, ...]) -> tuple[str, str]:
    """How sure a product of these rates is: as its weakest factor. And the rates themselves."""
    order = ("assumed", "counted", "measured", "given")
    how = min((known[name].how for name in names), key=order.index)
    told = (f"{name} {known[name].value:.3g} ({known[name].source})" for name in names)
    return how, "; ".join(told)


def _frames(latent_frames: int) -> int:
    return VAEConfig().temporal_stride * (latent_frames - 1) + 1


def _seconds(latent_frames: int) -> float:
    return _frames(latent_frames) / FPS


def store_spec(request: PrepareRequest, latent_frames: int, films: int) -> StoreSpec:
    """The store of `films` films of one length, each with as many shots as chunks."""
    stride, shots = VAEConfig().spatial_stride, latent_frames // CHUNK_FRAMES
    size = request.height // stride, request.width // stride
    return StoreSpec(films, latent_frames, *size, shots, WAN_TEXT_LEN, {}, "", "")


def _encoding(request: PrepareRequest, counts: Mapping[int, int]) -> Known:
    """The encoder's rate over films of all lengths, by its FLOPs and what the chip attains."""
    films = {frames: count for frames, count in counts.items() if count}
    flops = {frames: _encoder_flops(request.height, request.width, frames) for frames in films}
    hardware = target(request.chip)
    peak, attained = hardware.chip.flops, rates(hardware)  # `prepare` encodes in bfloat16
    device = sum(
        count * flops[frames].get(kind, 0.0) / (peak * attained[kind].expected)
        for frames, count in films.items()
        for kind in PRODUCTS
    )
    seconds = sum(count * _seconds(frames) for frames, count in films.items())
    share = attained["convolutions"]
    each = ", ".join(f"{sum(kinds.values()) / 1e12:.0f}" for kinds in flops.values())
    told = f"{each} TFLOP a film at {share.expected:g} of {request.chip}'s peak, {share.how}"
    return Known(seconds / device, "counted", f"{RATES['encode'].source}; {told}")


@functools.cache
def _encoder_flops(height: int, width: int, latent_frames: int) -> dict[str, float]:
    """FLOPs of Wan2.1's encoder over a film, by kind."""
    vae = jax.eval_shape(lambda: VAE(VAEConfig(), key=jax.random.key(0)))
    video = jax.ShapeDtypeStruct((1, _frames(latent_frames), height, width, 3), jnp.float32)
    return flops_by_kind(jax.make_jaxpr(VAE.encode)(vae, video))
