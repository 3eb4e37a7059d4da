"""Reruns the tables: the same as `causalcine experiments`, in experiments/command_line.py."""

import sys
from pathlib import Path

from causalcine_jax.cli import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # experiments/ is not installed
from experiments.command_line import main

if __name__ == "__main__":
    run(main)
