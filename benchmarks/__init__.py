"""Measurements, run from a checkout by `causalcine bench`; not in the wheel."""

from pathlib import Path

# Where a worker process starts, so that it imports this checkout.
REPOSITORY = Path(__path__[0]).parent
PARTS = ("streaming", "training", "attention", "vae", "text", "forward", "start", "ceilings")
