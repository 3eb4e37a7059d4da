"""The paper's tables in StoryWorld, run by `causalcine experiments`; not in the wheel."""
