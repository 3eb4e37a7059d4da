"""The paper's tables in StoryWorld, run from a checkout by `launch/experiments.py`."""
