"""Where the repository's files are, for tests that run its commands or read its goldens."""

from pathlib import Path

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
GOLDENS = ROOT / "tests" / "goldens"
