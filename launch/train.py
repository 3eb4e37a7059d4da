"""Trains a stage: the same as `causalcine train`, in causalcine_jax/commands/train.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.train import main

if __name__ == "__main__":
    run(main)
