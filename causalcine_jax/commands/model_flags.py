"""Flags that are the same for every command that films with a model."""

import argparse
from pathlib import Path

from causalcine_jax.cli import number, whole_number
from causalcine_jax.config import DTYPES, ROLLOUT_WEIGHTS, SOLVERS

NETWORK_CHOICES = ("dtype", "tiny_decoder", "lora", "seq", "rollout_weights")


def model_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        help="model folder (default: the embedded one, a few-step student where there is one)",
    )


def sampler_flags(group: argparse._ArgumentGroup) -> None:
    """Adds --sampler, --steps, --guidance and --memory-guidance."""
    group.add_argument(
        "--sampler",
        choices=("base", *SOLVERS),
        help="solver; base: the model that this one was distilled from, with its own",
    )
    group.add_argument("--steps", type=whole_number, help="solver steps per chunk")
    group.add_argument("--guidance", type=number, help="classifier-free guidance, 1 for none")
    group.add_argument(
        "--memory-guidance",
        type=number,
        metavar="G",
        help="v + G (v - v without memory) for every velocity v; 0 for none",
    )


def network_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of NETWORK_CHOICES, which film_folder/choices.py has as fields."""
    group = parser.add_argument_group("the networks (default: as the model has them)")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="float8: bfloat16 with the blocks' matrices in eight bits",
    )
    group.add_argument(
        "--tiny-decoder",
        type=Path,
        metavar="FILE",
        help="taew2_1.pth: decode Wan2.1's latents by TAEHV, faster and less sharp",
    )
    group.add_argument(
        "--lora",
        action="append",
        metavar="FILE[:STRENGTH]",
        help="adapter to merge into the transformer; may be given several times",
    )
    group.add_argument(
        "--seq",
        type=whole_number,
        metavar="DEVICES",
        help="devices that make a chunk together; divides heads and a chunk's tokens (default 1)",
    )
    group.add_argument(
        "--rollout-weights",
        choices=ROLLOUT_WEIGHTS,
        help="with --seq; gathered: the transformer's weights are replicated (default); "
        "sharded: each pass gathers them, for small memory",
    )
