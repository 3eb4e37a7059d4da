"""The paper's tables in StoryWorld, run by `causalcine experiments`; not in the wheel."""

from pathlib import Path

REPOSITORY = Path(__path__[0]).parent
