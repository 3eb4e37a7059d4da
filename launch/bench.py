"""Measures this device: the same as `causalcine bench`, in benchmarks/command_line.py."""

import sys
from pathlib import Path

from causalcine_jax.cli import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed
from benchmarks.command_line import main

if __name__ == "__main__":
    run(main)
