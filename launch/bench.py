"""Measures this device: the same as `causalcine bench`, in benchmarks/command_line.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
