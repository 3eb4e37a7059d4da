"""Measurements of the package, run from a checkout by `launch/bench.py`: not part of what pip installs."""

from pathlib import Path

REPOSITORY = Path(
    __path__[0]
).parent  # where a worker process starts, so that it imports this checkout
