"""Trains a stage: the same as `causalcine train`, in causalcine_jax/commands/train.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
