"""A film by the model in training, of a story that it is not trained on."""

from pathlib import Path

from causalcine_jax.film.generate import generate
from causalcine_jax.film.record import Recipe
from causalcine_jax.story import Shot, Story
from causalcine_jax.storyworld import WorldConfig, WorldStory, sample_story

SAMPLE_SEED = 31_337  # of the sampled stories; neither training nor evaluation uses it


def as_story(told: WorldStory, seed: int) -> Story:
    """A StoryWorld story as one that a director can film: its captions and lengths."""
    return Story(
        tuple(Shot(shot.caption, chunks=shot.chunks) for shot in told.shots),
        told.global_caption,
        seed,
    )


def sample_film(model: Path, out: Path, step: int, *, world: WorldConfig, seed: int) -> None:
    """Writes film.mp4, contact_sheet.png and film.json to `out`.

    The story is the same at every step, so that films can be compared.
    """
    story = as_story(sample_story(SAMPLE_SEED, seed, world), seed)
    generate(Recipe(story), out, model=model, progress=False, overwrite=True)
