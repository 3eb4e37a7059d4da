"""Measures a model: the same as `causalcine evaluate`, in causalcine_jax/commands/evaluate.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.evaluate import main

if __name__ == "__main__":
    run(main)
