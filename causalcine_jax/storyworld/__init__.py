"""StoryWorld: procedural films with captions and ground truth, without end.

They train and measure memory across shots.

story = sample_story(seed=0, index=7, world=WorldConfig.storyworld())
shapes = scene_parameters(story)
film = render(shapes, story.world.height, story.world.width)  # uint8 [T, H, W, 3]
"""

from causalcine_jax.storyworld.grammar import MAX_PROMPT_WORDS, VOCABULARY, words
from causalcine_jax.storyworld.render import render
from causalcine_jax.storyworld.scene import box_masks, scene_parameters
from causalcine_jax.storyworld.story import (
    Character,
    Return,
    WorldShot,
    WorldStory,
    part_of,
    returns,
)
from causalcine_jax.storyworld.story_sampler import retold, sample_story
from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    CAMERAS,
    COLOURS,
    NAMES,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
    WORLDS,
    WorldConfig,
)

__all__ = [
    "ACCESSORIES",
    "ACTIONS",
    "CAMERAS",
    "COLOURS",
    "MAX_PROMPT_WORDS",
    "NAMES",
    "PLACES",
    "SIZES",
    "SPECIES",
    "TIMES",
    "VOCABULARY",
    "WORLDS",
    "Character",
    "Return",
    "WorldConfig",
    "WorldShot",
    "WorldStory",
    "box_masks",
    "part_of",
    "render",
    "retold",
    "returns",
    "sample_story",
    "scene_parameters",
    "words",
]
