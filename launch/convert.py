"""Converts checkpoints: the same as `causalcine convert`, in causalcine_jax/commands/convert.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.convert import main

if __name__ == "__main__":
    run(main)
