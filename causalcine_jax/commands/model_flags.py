"""Flags that are the same for every command that films with a model."""

import argparse
from pathlib import Path

from causalcine_jax.cli import number, whole_number
from causalcine_jax.config import (
    DTYPES,
    EVICTIONS,
    KV_DTYPES,
    POOL_PLACES,
    POSITIONS,
    ROLLOUT_WEIGHTS,
    SOLVERS,
)
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.rollouts import ROLLOUTS

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


def memory_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of what a chunk attends to, and of the pool."""
    group = parser.add_argument_group("what a chunk sees (default: the model's)")
    group.add_argument(
        "--rollout-of",
        choices=ROLLOUTS,
        metavar="MODEL",
        help="memory settings of another model's rollout, which the flags below override: "
        + ", ".join(ROLLOUTS),
    )
    group.add_argument(
        "--policy",
        choices=POLICIES,
        help="what memory retrieves; "
        + "; ".join(f"{name}: {policy.retrieves}" for name, policy in POLICIES.items()),
    )
    group.add_argument(
        "--window",
        type=whole_number,
        dest="window_chunks",
        metavar="CHUNKS",
        help="number of preceding chunks that a chunk always attends to",
    )
    group.add_argument(
        "--memory-frames",
        type=whole_number,
        metavar="FRAMES",
        help="older latent frames that the policy retrieves",
    )
    group.add_argument(
        "--positions",
        choices=POSITIONS,
        help="a frame's position: its index in the receptive field, or its distance in the film",
    )
    group.add_argument(
        "--eviction",
        choices=EVICTIONS,
        help="chunk that a full pool evicts: "
        "the oldest, or the one that memory retrieved least of late",
    )
    group.add_argument(
        "--chunk-frames", type=whole_number, metavar="FRAMES", help="latent frames made at once"
    )
    pool_flags(group, "all that the policy may retrieve")
    pool_gb_flag(group)


def pool_gb_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--pool-gb",
        type=number,
        metavar="GB",
        help="size of the pool in GB (10^9 bytes) over all devices, instead of --pool-frames",
    )


def pool_flags(group: argparse._ActionsContainer, frames: str) -> None:
    """Adds the flags of the pool's length, dtype and place. `frames` says the default length."""
    group.add_argument(
        "--pool-frames",
        type=whole_number,
        metavar="FRAMES",
        help=f"latent frames of history kept (default: {frames})",
    )
    group.add_argument(
        "--kv-dtype",
        choices=KV_DTYPES,
        help="of the history's keys and values (default: same as the model's)",
    )
    group.add_argument(
        "--pool-on",
        choices=POOL_PLACES,
        help="where the pool is; host: if the device has too little memory (default: device)",
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
