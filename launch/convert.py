"""Converts checkpoints: the same as `causalcine convert`, in causalcine_jax/commands/convert.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
