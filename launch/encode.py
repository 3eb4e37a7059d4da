"""Encodes StoryWorld films: the same as `causalcine encode`, whose flags causalcine_jax/commands/encode.py tells."""

from causalcine_jax.cli import run
from causalcine_jax.commands.encode import main

if __name__ == "__main__":
    run(main)
