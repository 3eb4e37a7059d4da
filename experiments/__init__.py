"""The paper's tables in StoryWorld, run from a checkout by `causalcine experiments`: not part of what pip installs."""
