"""Plans a run: the same as `causalcine plan`, in causalcine_jax/commands/plan.py."""

from causalcine_jax.cli import run
from causalcine_jax.commands.plan import main

if __name__ == "__main__":
    run(main)
