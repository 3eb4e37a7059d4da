"""Measures a model: the same as `causalcine evaluate`, in causalcine_jax/commands/evaluate.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
