"""Plans a run: the same as `causalcine plan`, in causalcine_jax/commands/plan.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["plan", *sys.argv[1:]])
