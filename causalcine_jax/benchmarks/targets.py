"""What this software is meant to reach on a device, as runs of the benchmark with bounds on their numbers.

    TARGETS["h200"] --bench.py, a record per run--> FOLDER/<run>.json --> FOLDER/targets.md: number, bound, measured, met

A run whose record is there and whole is not measured again, so that hours of a rented device are not lost: the same command goes on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.benchmarks.bench import bench, in_process
from causalcine_jax.benchmarks.report import duration, scaled
from causalcine_jax.benchmarks.settings import Settings
from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.whole_file import whole_file


@dataclass(frozen=True)
class Target:
    """A bound on a number, which is named by its place in a record: part.name.name. `unit` is s, FLOP/s or nothing."""

    words: str
    number: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= self.at_most

    @property
    def bound(self) -> str:
        return f"≥ {self.shown(self.at_least)}" if self.at_least is not None else f"≤ {self.shown(self.at_most)}"

    def shown(self, value: float) -> str:
        return duration(value) if self.unit == "s" else scaled(value, self.unit) if self.unit else f"{value:.4g}"


@dataclass(frozen=True)
class Run:
    """One call of the benchmark: what `bench.py PARTS --preset ...` measures, under a name."""

    name: str
    parts: tuple[str, ...]
    settings: dict
    targets: tuple[Target, ...]


FPS, DECODING = "streaming.minute_1.fps", "frames per second, decoding included"
FLAT = (
    Target("a chunk of minute 10 over one of minute 1", "streaming.late_over_early", at_most=1.05),
    Target("memory in use in minute 10 over minute 1", "streaming.memory_late_over_early", at_most=1.01),
)
FIRST = Target("the first frames after a prompt, in chunk times", "streaming.first.in_later_chunks", at_most=1.5)
AGAIN = Target("a second start, to the first frames", "start.with_compilation_cache.seconds.together", at_most=60, unit="s")
CYCLE = Target("a cycle of DMD, over its operations at the rate of stage 1", "training.dmd.ratio", at_most=1.5)
FORWARD = Target("the transformer's speed over Diffusers'", "forward.speed_over_diffusers", at_least=1.0)

PLATFORMS = {"h200": "gpu", "cpu": "cpu"}  # what jax calls them
# The most wanted first. Sources: the paper's 2 frames per second and GPU at 14B; public code's 16.5 on one H200 and 35 with TAEHV at 1.3B.
TARGETS: dict[str, tuple[Run, ...]] = {
    "h200": (
        Run("streaming_14b", ("streaming",), {"preset": "wan-14b"}, (Target(f"14B, bfloat16: {DECODING}", FPS, at_least=5), *FLAT, FIRST)),
        Run(
            "streaming_1.3b",
            ("streaming",),
            {"preset": "wan-1.3b"},
            (Target(f"1.3B, bfloat16: {DECODING}", FPS, at_least=24), *FLAT, FIRST),
        ),
        Run(
            "attention_14b",
            ("attention",),
            {"preset": "wan-14b", "batch": 8, "peer": True},
            (
                Target(
                    "attention of one field, forward", "attention.segments_1.cudnn.forward.flop_per_second", at_least=600e12, unit="FLOP/s"
                ),
            ),
        ),
        Run(
            "vae",
            ("vae", "text"),
            {"preset": "wan-1.3b"},
            (
                Target("12 frames by the VAE's decoder", "vae.decode.median", at_most=0.120, unit="s"),
                Target("12 frames by TAEHV", "vae.tiny_decode.median", at_most=0.015, unit="s"),
            ),
        ),
        Run(
            "streaming_1.3b_taehv",
            ("streaming",),
            {"preset": "wan-1.3b", "tiny_decoder": True},
            (Target(f"1.3B, bfloat16, TAEHV: {DECODING}", FPS, at_least=35),),
        ),
        Run(
            "streaming_14b_float8",
            ("streaming",),
            {"preset": "wan-14b", "dtype": "float8"},
            (Target(f"14B, float8: {DECODING}", FPS, at_least=7),),
        ),
        Run(
            "training_1.3b",
            ("training",),
            {"preset": "wan-1.3b", "batch": 1, "stages": ("teacher_forcing",), "repeats": 3},
            (Target("1.3B, teacher forcing: MFU", "training.teacher_forcing.mfu", at_least=0.35),),
        ),
        Run("start_14b", ("start",), {"preset": "wan-14b"}, (AGAIN,)),
        Run("forward_1.3b", ("forward",), {"preset": "wan-1.3b", "peer": True}, (FORWARD,)),
        Run("training_storyworld", ("training",), {"preset": "storyworld", "repeats": 3}, (CYCLE,)),
        # Nobody has set a bound for what a pool in host memory costs: measured for its own sake.
        Run("streaming_14b_host_pool", ("streaming",), {"preset": "wan-14b", "pool_frames": 120, "pool_on": "host"}, ()),
    ),
    "cpu": (
        Run("forward_base", ("forward",), {"preset": "storyworld-base", "peer": True, "repeats": 20}, (FORWARD,)),
        Run("forward_storyworld", ("forward",), {"preset": "storyworld", "peer": True, "repeats": 20}, (FORWARD,)),
        Run("streaming_base", ("streaming", "start"), {"preset": "storyworld-base", "repeats": 20}, (FLAT[0], FIRST, AGAIN)),
        Run("training_base", ("training",), {"preset": "storyworld-base", "repeats": 3}, (CYCLE,)),
    ),
}


def measure_targets(device: str, folder: Path, configs: str, say: Callable[[str], None]) -> str:
    """Measures what is missing in `folder` of a device's runs; returns the table, which `folder`/targets.md holds too.

    Raises:
      UsageError: no targets are known for such a device, or it is not what jax computes on here.
      DataError: a run failed, after all others ran.
    """
    if device not in TARGETS:
        raise UsageError(f"no targets for {device!r}, {nearest(device, TARGETS)}")
    runs, failed = TARGETS[device], []
    here = in_process("device", Settings(configs=configs, **runs[0].settings))["device"]["platform"]
    if here != PLATFORMS[device]:
        raise UsageError(f"the targets for {device} are measured on a {PLATFORMS[device]}, and jax computes on a {here} here")
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        record = folder / f"{run.name}.json"
        if _whole(record, run):
            say(f"{run.name}: {record} is there (delete it to measure again)")
            continue
        say(f"{run.name}: {' '.join(run.parts)}")
        try:
            bench(Settings(configs=configs, **run.settings), run.parts, record, say)
        except DataError as error:
            failed.append(f"{run.name}: {error}")
        with whole_file(folder / "targets.md") as partial:
            partial.write_text(targets_table(runs, folder) + "\n", encoding="utf-8")
    if failed:
        raise DataError("; ".join(failed))
    return targets_table(runs, folder)


def targets_table(runs: tuple[Run, ...], folder: Path) -> str:
    """Markdown: a row per target, with what was measured of it so far."""
    rows = ["| target | bound | measured | | run |", "|---|---|---|---|---|"]
    records = [_read(folder / f"{run.name}.json") for run in runs]
    for run, record in zip(runs, records, strict=True):
        for target in run.targets:
            value = _number(record, target.number)
            measured = "| |" if value is None else f"{target.shown(value)} | {'met' if target.met(value) else 'not met'} |"
            rows.append(f"| {target.words} | {target.bound} | {measured} {run.name} |")
    if heads := dict.fromkeys(_on(record) for record in records if record.get("device")):
        rows += ["", *heads]
    return "\n".join(rows)


def _on(record: dict) -> str:
    device, software = record["device"], record["software"]
    return f"{device['count']} x {device['kind']}, {record['machine']['cores']} cores, jax {software['jax']}, commit {software['commit']}, {record['date'][:10]}"


def _whole(record: Path, run: Run) -> bool:
    parts = _read(record).get("parts", {})
    return all("failed" not in parts.get(part, {"failed": ""}) for part in run.parts)


def _read(record: Path) -> dict:
    """A record, or nothing where there is none."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{record} is no record of bench.py ({error}): delete it to measure again") from error


def _number(record: dict, place: str) -> float | None:
    """The number at part.name.name of a record; None where it was not measured."""
    value = record.get("parts", {})
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
