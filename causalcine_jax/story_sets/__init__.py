"""Sets of stories with labels, such as the benchmark in stories/: read, checked, exported."""

from causalcine_jax.story_sets.story_set import LabelledStory, StorySet, read_set

__all__ = ["LabelledStory", "StorySet", "read_set"]
