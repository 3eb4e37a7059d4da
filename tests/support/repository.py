"""Paths of the repository, for tests that run its commands or read its goldens."""

from pathlib import Path

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
GOLDENS = ROOT / "tests" / "goldens"
