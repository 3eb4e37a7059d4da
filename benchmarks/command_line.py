"""Measures a preset with random weights on the device that is here.

    causalcine bench streaming --preset storyworld-base
    causalcine bench training --preset wan-1.3b --batch 1 --out bench.json
    causalcine bench all --preset wan-1.3b --batch 1 --peer --out bench.json
    causalcine bench race --out race.json        # our rollout against Self-Forcing's in plain torch
    causalcine bench reliability --out reliability.json    # mutated inputs, kills, full disks
    causalcine bench desk --out desk.json        # the director's desk: delays, fairness, endurance
    causalcine bench --targets h200 --out bench  # all that the device's targets need; which are met

    streaming   a chunk: denoise, commit, decode, apart, together and enqueued at once; the first
                after a prompt's words, in minutes 1 and 10 in turns; frames per second, memory
    training    a step of stage 1 and of ODE initialisation, a cycle of DMD, as configs/ have them:
                seconds, FLOP, FLOP/s, MFU, memory
    attention   a receptive field's attention, forward and backward
    vae         12 video frames to latents and back
    text        a prompt through the text encoder
    forward     the transformer on a film of 21 latent frames at once
    ceilings    what products, attention, convolutions and memory attain of the device's peaks, in
                the preset's sizes; with --keep-rates plans of this device reckon with it
    start       from nothing to the first frames: weights read from disk, a prompt, a chunk; and
                again with the compiled programs of the first start. The model folder that it reads
                is written beside --out (else in the current folder) as .bench.start, at 14B 41 GB,
                and removed afterwards

Every part runs in a process of its own. Prints a table, and with --out leaves everything as JSON:
device, versions, commit, settings, results, written after each part. Exit code 1 if a part failed,
2 if one cannot be measured as asked; all others run first.
race, reliability and desk are measured alone, without a preset; --case picks some of their cases.
race makes the same films by our rollout and by Self-Forcing's in plain torch, in turns: seconds a
chunk, memory, by how much the films differ, and a roofline. --repeats: films of each side (3).
Exit code 1 if the films differ. Called again with the same --out, it goes on with what is missing.
reliability runs tiny networks. It gives mutated inputs to all commands' readers (fuzz), kills
commands at random moments (kills), makes a long film (endless) and fills disks (full_disk).
--repeats says how many. Exit code 1 if any failed.
desk has the cases page (in Chromium), one, two, soak and soak_model (each --repeats minutes).
--targets (h200 or cpu) does so for a list of runs, into a folder, to the end, whatever fails;
targets.md there says which targets are met, and of the others why not. Called again, it goes on
with what is missing or failed. Exit code 0 if everything was measured, met or not.
"""

import argparse
import contextlib
import os
from pathlib import Path

from benchmarks import PARTS, REPOSITORY
from causalcine_jax.cli import ArgumentParser, pixel_size, whole_number
from causalcine_jax.config import KV_DTYPES, POOL_PLACES
from causalcine_jax.errors import DataError, UsageError, choice_faults, raise_faults
from causalcine_jax.presets import PRESETS
from causalcine_jax.training.stages.table import FILM_STAGES
from causalcine_jax.utils.output import one_file_writer, one_writer

# Flags and settings alike.
SAME = (
    "preset",
    "dtype",
    "batch",
    "pool_frames",
    "pool_on",
    "sampler",
    "kv_dtype",
    "tiny_decoder",
    "remat",
    "peer",
)
# The flags that only some parts use, and these parts.
USERS = {
    "batch": ("training", "attention"),
    "pool_frames": ("streaming", "start"),
    "pool_on": ("streaming", "start"),
    "sampler": ("streaming", "start"),
    "kv_dtype": ("streaming", "start"),
    "tiny_decoder": ("streaming", "start"),
    "stages": ("training",),
    "remat": ("training",),
    "peer": ("attention", "forward"),
    "keep_rates": ("ceilings",),
}
OF_PRESET = (*USERS, "preset", "size")
# What is measured alone and without a preset, and which flags it leaves unused.
ALONE = {
    "race": OF_PRESET,
    "reliability": (*OF_PRESET, "dtype"),
    "desk": (*OF_PRESET, "dtype"),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="what to measure, see above; all for everything"
    )
    parser.add_argument("--preset", help=f"whose sizes: {', '.join(PRESETS)}")
    parser.add_argument(
        "--targets",
        metavar="DEVICE",
        help="instead of parts and a preset: all that the targets for h200 or cpu need",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="where the whole record goes; with --targets a folder",
    )
    parser.add_argument(
        "--dtype",
        help="float32, bfloat16 or (not in training) float8 (default: training as its config says, "
        "else float32 on CPUs, bfloat16 elsewhere)",
    )
    parser.add_argument(
        "--size",
        type=pixel_size,
        metavar="WIDTHxHEIGHT",
        help="such as 832x480 (default: the preset's)",
    )
    parser.add_argument(
        "--batch",
        type=whole_number,
        help="training: films per step (default: the config's); attention: segments in one call",
    )
    parser.add_argument(
        "--repeats",
        type=whole_number,
        help="timed calls of everything (default 5; race 3); reliability: how many of each case; "
        "desk: minutes",
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="NAME",
        help="race, reliability, desk: only this case; may be given several times",
    )
    parser.add_argument(
        "--pool-frames",
        type=whole_number,
        default=60,
        help="streaming: latent frames of history kept (default 60)",
    )
    parser.add_argument(
        "--pool-on",
        choices=POOL_PLACES,
        default="device",
        help="streaming: where its keys and values lie (default device)",
    )
    parser.add_argument(
        "--sampler",
        default="few_step",
        help="streaming: few_step, 4 steps without guidance (default), or preset, its own",
    )
    parser.add_argument(
        "--kv-dtype",
        default="same",
        choices=KV_DTYPES,
        help="streaming: how the pool stores keys and values",
    )
    parser.add_argument(
        "--tiny-decoder", action="store_true", help="streaming: TAEHV decodes in the VAE's place"
    )
    parser.add_argument(
        "--stages",
        default=",".join(FILM_STAGES),
        help=f"training: which, joined by commas (default: {','.join(FILM_STAGES)})",
    )
    parser.add_argument(
        "--remat",
        action=argparse.BooleanOptionalAction,
        help="training: recompute layers in the backward pass, or keep all (default: the config's)",
    )
    parser.add_argument(
        "--keep-rates",
        action="store_true",
        help="ceilings: write them to planning/attained.json, for plans of this device",
    )
    parser.add_argument(
        "--peer",
        action="store_true",
        help="attention, forward: also time torch's, and Diffusers', on the same",
    )
    flags = parser.parse_args(arguments)
    _refuse_unused(parser, flags)
    return flags


def _refuse_unused(parser: ArgumentParser, flags: argparse.Namespace) -> None:
    """Refuses flags that nothing asked for would use."""
    if flags.targets:
        unused = (*OF_PRESET, "dtype", "repeats", "case")
        return parser.refuse_set(flags, unused, "has no effect with --targets: leave it out")
    for name in flags.parts:
        if name in ("all", *ALONE) and len(flags.parts) > 1:
            raise UsageError(f"bench {name} is measured alone: leave out the other parts")
        if name in ALONE:
            return parser.refuse_set(flags, ALONE[name], f"has no effect on {name}: leave it out")
    parser.refuse_set(flags, ("case",), f"applies only to {', '.join(ALONE)}")
    unknown = [f for part in flags.parts for f in choice_faults("part", part, (*PARTS, "all"))]
    raise_faults("bench", unknown)
    for name, parts in USERS.items():
        if flags.parts and not {"all", *parts} & set(flags.parts):
            parser.refuse_set(flags, (name,), f"applies only to {' and '.join(parts)}")


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    # Read by jax when it is imported: no notes about other people's hardware.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    alone = {"race": _race, "reliability": _reliability, "desk": _desk}
    run = _targets if flags.targets else alone.get("".join(flags.parts), _parts)
    lock = one_writer if flags.targets else one_file_writer
    with lock(flags.out) if flags.out else contextlib.nullcontext():
        run(flags)


def _parts(flags: argparse.Namespace) -> None:
    if not flags.parts or not flags.preset:
        raise UsageError(
            "bench needs parts and --preset, such as: streaming --preset storyworld-base; "
            "or --targets"
        )
    from benchmarks.bench import bench, faults, made, missing_peers, without, write
    from benchmarks.report import table
    from benchmarks.settings import Settings

    parts = PARTS if flags.parts == ["all"] else tuple(dict.fromkeys(flags.parts))
    if flags.peer and (missing := missing_peers()):
        raise UsageError(f"--peer: {without(missing)}")
    width, height = flags.size or (None, None)
    same = {name: getattr(flags, name) for name in SAME}
    same |= {} if flags.repeats is None else {"repeats": flags.repeats}
    settings = Settings(
        width=width,
        height=height,
        stages=tuple(flags.stages.split(",")),
        configs=str(REPOSITORY / "configs"),
        **same,
    )
    scratch = made(flags.out.absolute().parent) if flags.out else Path.cwd()
    keep = (lambda record: write(record, flags.out)) if flags.out else (lambda record: None)
    record = bench(settings, parts, scratch, say, keep)
    print(table(record))
    if flags.keep_rates:
        from benchmarks.ceilings import keep_rates, why_not

        kinds = keep_rates(record, str(flags.out or "causalcine bench ceilings"))
        say(f"rates for plans: {', '.join(kinds) or f'none, {why_not(record)}'}")
    if found := faults(record):
        failed = any("failed" in result for result in record["parts"].values())
        raise (DataError if failed else UsageError)("; ".join(found))


def _race(flags: argparse.Namespace) -> None:
    from benchmarks.race import Race, faults, race, race_table

    asked = {
        "names": flags.case and tuple(dict.fromkeys(flags.case)),
        "dtype": flags.dtype,
        "turns": flags.repeats,
    }
    record = race(
        Race(**{name: value for name, value in asked.items() if value is not None}), flags.out, say
    )
    print(race_table(record))
    if found := faults(record):
        raise DataError("; ".join(found))


def _reliability(flags: argparse.Namespace) -> None:
    from benchmarks.reliability import faults, reliability, reliability_table

    names = tuple(dict.fromkeys(flags.case or ()))
    record = reliability(names, flags.repeats, flags.out, say)
    print(reliability_table(record))
    if found := faults(record):
        raise DataError("; ".join(found))


def _desk(flags: argparse.Namespace) -> None:
    from benchmarks.desk import desk, desk_table

    names = tuple(dict.fromkeys(flags.case or ()))
    print(desk_table(desk(names, flags.repeats, flags.out, say)))


def _targets(flags: argparse.Namespace) -> None:
    from benchmarks.targets import measure_targets

    if flags.parts or not flags.out:
        raise UsageError(
            "--targets takes --out FOLDER and no parts: its runs say what they measure"
        )
    table, unmeasured = measure_targets(flags.targets, flags.out, str(REPOSITORY / "configs"), say)
    print(table)
    if unmeasured:
        raise DataError(f"not measured: {'; '.join(unmeasured)}")


def say(line: str) -> None:
    print(line, flush=True)
