"""The director's desk: the same as `causalcine serve`, in causalcine_jax/commands/serve.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.serve import main

if __name__ == "__main__":
    run(main)
