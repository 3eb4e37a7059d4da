"""The desk on several machines: the same as `causalcine ray_serve`, commands/ray_serve.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.ray_serve import main

if __name__ == "__main__":
    run(main)
