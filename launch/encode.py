"""Encodes films: the same as `causalcine encode`, in causalcine_jax/commands/encode.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["encode", *sys.argv[1:]])
