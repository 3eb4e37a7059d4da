"""Says what a run needs before it is started, or a machine rented for it.

    python launch/plan.py memory --model wan-14b --size 832x480 --pool-frames 60 --devices 8
    python launch/plan.py memory --model models/self-forcing --json

memory: the bytes of a film, from configs and the headers of files: nothing is loaded or computed. --model is a preset (storyworld, wan-1.3b, wan-14b),
a family (self-forcing, causvid, ...: causalcine_jax/families.py), or anything that convert.py reads.
"""

import argparse
import re

from causalcine_jax.cli import run
from causalcine_jax.errors import UsageError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser("memory", help="bytes of networks, history and activations")
    memory.add_argument("--model", required=True, help="a preset, a family, or a model on disk")
    memory.add_argument("--size", metavar="WxH", help="pixels of the film, 832x480 for Wan (default: the model's own)")
    memory.add_argument(
        "--pool-frames", type=int, help="latent frames of history kept (default: 60, a film of 15 s, or less if memory cannot use so many)"
    )
    memory.add_argument("--devices", type=int, default=1, help="that share the work (default 1)")
    memory.add_argument("--guidance", type=float, help="1 keeps one history, else two (default: the model's)")
    memory.add_argument("--dtype", choices=("bf16", "fp32"), help="of weights and history (default: the model's, bf16 for Wan)")
    memory.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(arguments)


def size_of(text: str | None) -> tuple[int | None, int | None]:
    """Width and height."""
    if text is None:
        return None, None
    if not (match := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise UsageError(f"--size is width x height in pixels, such as 832x480, not {text!r}")
    return int(match[1]), int(match[2])


def main() -> None:
    flags = parse()
    width, height = size_of(flags.size)
    from causalcine_jax.parallel.memory_plan import Request, memory_plan
    from causalcine_jax.parallel.memory_table import table, to_json

    plan = memory_plan(Request(flags.model, height, width, flags.pool_frames, flags.devices, flags.guidance, flags.dtype))
    print(to_json(plan) if flags.json else table(plan))


if __name__ == "__main__":
    run(main)
