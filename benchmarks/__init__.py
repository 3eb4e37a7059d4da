"""Measurements of the package, run from a checkout by `launch/bench.py`; not in the wheel."""

from pathlib import Path

REPOSITORY = Path(__path__[0]).parent  # workers start here, so that they import this checkout
