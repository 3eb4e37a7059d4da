"""Reruns the tables: the same as `causalcine experiments`, in experiments/command_line.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["experiments", *sys.argv[1:]])
