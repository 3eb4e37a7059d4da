"""Encodes films: the same as `causalcine encode`, in causalcine_jax/commands/encode.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.encode import main

if __name__ == "__main__":
    run(main)
