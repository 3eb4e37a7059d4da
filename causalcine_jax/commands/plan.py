"""Says what a run needs before it is started, or a machine rented for it.

    causalcine plan memory --model wan-14b --size 832x480 --pool-frames 60 --devices 8
    causalcine plan memory --model wan-14b --pool-frames 2400 --kv-dtype int8 --pool-on host
    causalcine plan memory --model models/self-forcing --json
    causalcine plan compile --config configs/wan.py:14b --topology v5p:4x4x4
    causalcine plan compile --config configs/dmd.py:wan_14b --config.batch=32 --topology h200:8x8
    causalcine plan compile --config configs/dmd.py:wan_14b --rollout --topology h200:1x8 --seq 8
    causalcine plan prepare --videos 20000 --hours 10000 --devices 64 --cores 512

memory: the bytes of a film, from configs and the headers of files: nothing is loaded or computed.
--model is a preset (storyworld, wan-1.3b, wan-14b), a family (self-forcing, causvid, ...:
causalcine_jax/families.py), or anything that `causalcine convert` reads.

compile: the real training step of a stage, or, with --rollout, what makes a chunk. It is compiled
for hardware that need not be here: v5p, v6e, v5e, h200, h100. Its compiler must be: pip install
'causalcine-jax[tpu]' or '[cuda13]'. Says bytes per device by part, collectives, FLOPs, and the
roofline of a step (of a cycle of steps, where some do more). Exit code 1 if it does not fit.

prepare: bytes on disk and hours of each stage for a folder of videos. Each row says whether its
number was measured, counted or assumed; --rate replaces one.
"""

import argparse
import collections
import os

from causalcine_jax.cli import ArgumentParser, lengths, number, pixel_size, whole_number
from causalcine_jax.commands.model_flags import pool_flags, pool_gb_flag
from causalcine_jax.config import DTYPES, ROLLOUT_WEIGHTS
from causalcine_jax.errors import DataError, UsageError, shown

# Of a film's memory: flags and fields of a request alike.
ASKED = (
    "pool_frames", "devices", "guidance", "dtype", "pool_gb", "kv_dtype", "pool_on",
    "rollout_weights",
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The command's own flags, and those of the config."""
    parser = ArgumentParser(prog="causalcine plan", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser(
        "memory", help="bytes of networks, history and activations", allow_abbrev=False
    )
    memory.add_argument("--model", required=True, help="a preset, a family, or a model on disk")
    memory.add_argument(
        "--size",
        type=pixel_size,
        metavar="WIDTHxHEIGHT",
        help="pixels of the film, 832x480 for Wan (default: the model's own)",
    )
    pool_flags(memory, "60, a film of 15 s, or less if memory cannot use so many")
    pool_gb_flag(memory)
    memory.add_argument(
        "--devices", type=whole_number, default=1, help="number of devices (default 1)"
    )
    memory.add_argument(
        "--rollout-weights",
        default=ROLLOUT_WEIGHTS[0],
        choices=ROLLOUT_WEIGHTS,
        help="whether a device holds the whole transformer, as in film (default gathered)",
    )
    memory.add_argument(
        "--guidance", type=number, help="1 keeps one history, else two (default: the model's)"
    )
    memory.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of weights and history (default: the model's, bfloat16 for Wan); "
        "float8: the blocks' matrices in eight bits",
    )
    memory.add_argument("--json", action="store_true", help="print JSON instead of a table")
    step = commands.add_parser(
        "compile",
        help="a training step, compiled for hardware that need not be here",
        allow_abbrev=False,
    )
    step.add_argument(
        "--config",
        metavar="FILE",
        required=True,
        help="a file of configs/, with --config.KEY=VALUE as for train.py",
    )
    step.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="v5p:4x4x4, v6e:8x8, v5e:8x8, h200:1x8 (nodes x GPUs), ...",
    )
    step.add_argument(
        "--seq",
        type=whole_number,
        help="devices that share a film (default: the config's, 1 if it has none)",
    )
    step.add_argument(
        "--frames",
        type=whole_number,
        help="latent frames of the films (default: those of the config's world)",
    )
    step.add_argument(
        "--size",
        type=pixel_size,
        metavar="WIDTHxHEIGHT",
        help="pixels of the films (default: the size that the transformer was made for)",
    )
    step.add_argument(
        "--rollout",
        action="store_true",
        help="not the stage's step but a rollout by the config's transformer, sampler and memory",
    )
    pool_flags(step, "the whole film")
    step.add_argument("--json", action="store_true", help="print JSON instead of a table")
    prepare = _prepare_parser(commands)
    flags, rest = parser.parse_known_args(arguments)
    of_config = ("--config.", "--noconfig.") if flags.command == "compile" else ()
    {"memory": memory, "compile": step, "prepare": prepare}[flags.command].refuse(
        [word for word in rest if not word.startswith(of_config)]
    )
    if flags.command == "compile" and not flags.rollout:
        of_rollout = ("pool_frames", "kv_dtype", "pool_on")
        step.refuse_set(flags, of_rollout, "applies only to a rollout: add --rollout")
    return flags, rest


def _prepare_parser(commands) -> ArgumentParser:
    parser = commands.add_parser(
        "prepare", help="bytes and hours of `causalcine prepare`", allow_abbrev=False
    )
    parser.add_argument("--videos", type=whole_number, required=True, help="in the folder")
    parser.add_argument("--hours", type=number, required=True, help="of all videos together")
    parser.add_argument(
        "--size",
        type=pixel_size,
        default=(832, 480),
        metavar="WIDTHxHEIGHT",
        help="pixels of the films (default 832x480)",
    )
    parser.add_argument(
        "--latent-frames",
        type=lengths,
        default=(60,),
        metavar="N[,N...]",
        help="latent frames per film (default 60: 14.8 s); several as in prepare, such as 60,30,15",
    )
    parser.add_argument(
        "--embed-shots",
        action="store_true",
        help="count the search for copies by embeddings too, as prepare --duplicates-weights",
    )
    parser.add_argument("--devices", type=whole_number, default=1, help="that encode (default 1)")
    parser.add_argument("--chip", default="h200", help="their kind (default h200)")
    parser.add_argument("--cores", type=whole_number, default=1, help="that read (default 1)")
    parser.add_argument(
        "--captioner-at-once",
        type=whole_number,
        default=4,
        dest="at_once",
        metavar="N",
        help="requests that the captioner has at the same time (default 4)",
    )
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        type=_rate,
        dest="rates",
        metavar="NAME=NUMBER",
        help="replaces a rate, by the name that its row shows; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _rate(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(
            f"must be NAME=NUMBER, such as kept=0.5, not {shown(text)}"
        )
    return name, number(value)


def _need_no_device() -> None:
    """Sets what jax reads when it is imported: plans ask for no device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    # The TPU's compiler would ask the machine which TPU it has.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several plans at once: no TPU is taken


def memory(flags: argparse.Namespace) -> None:
    if not flags.model.strip():
        raise UsageError("--model must be a preset, a family or a path, not nothing")
    width, height = flags.size or (None, None)
    from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
    from causalcine_jax.planning.memory_table import table, to_json

    plan = memory_plan(
        MemoryRequest(
            flags.model,
            height,
            width,
            **{name: value for name in ASKED if (value := getattr(flags, name)) is not None},
        )
    )
    print(to_json(plan) if flags.json else table(plan))


def prepare(flags: argparse.Namespace) -> None:
    from causalcine_jax.planning.prepare_plan import PrepareRequest, prepare_plan
    from causalcine_jax.planning.prepare_table import table, to_json

    counted = collections.Counter(name for name, _ in flags.rates)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UsageError(f"--rate {twice[0]} is given twice: leave out all but one")
    width, height = flags.size
    longest, *shorter = flags.latent_frames
    names = ("videos", "hours", "devices", "cores", "chip", "at_once", "embed_shots")
    asked = {name: getattr(flags, name) for name in names}
    asked |= {"latent_frames": longest, "shorter": tuple(shorter)}
    request = PrepareRequest(**asked, height=height, width=width, rates=dict(flags.rates))
    rows = prepare_plan(request)
    print(to_json(request, rows) if flags.json else table(request, rows))


def compile_step(flags: argparse.Namespace, rest: list[str]) -> None:
    from causalcine_jax.planning.hardware import target
    from causalcine_jax.training.flags import parse as parse_config

    target(flags.topology)  # a mistyped one is told at once
    config, _ = parse_config([f"--config={flags.config}", *rest])
    from causalcine_jax.config import PoolConfig
    from causalcine_jax.planning.compile_plan import compile_plan
    from causalcine_jax.planning.compile_table import table, to_json

    pool = PoolConfig(
        flags.pool_frames, kv_dtype=flags.kv_dtype or "same", on=flags.pool_on or "device"
    )
    plan = compile_plan(
        config,
        flags.topology,
        seq=flags.seq,
        frames=flags.frames,
        size=flags.size,
        rollout=pool if flags.rollout else None,
    )
    print(to_json(plan) if flags.json else table(plan), flush=True)
    if not plan.fits:
        raise DataError(
            f"{plan.what} does not fit {plan.target.name}; "
            "the largest arrays and what to change are printed above"
        )


def main(arguments: list[str] | None = None) -> None:
    flags, rest = parse(arguments)
    _need_no_device()
    if flags.command == "compile":
        compile_step(flags, rest)
    else:
        {"memory": memory, "prepare": prepare}[flags.command](flags)
