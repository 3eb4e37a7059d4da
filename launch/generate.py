"""Makes a film: the same as `causalcine film`, in causalcine_jax/commands/film.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.film import main

if __name__ == "__main__":
    run(main)
