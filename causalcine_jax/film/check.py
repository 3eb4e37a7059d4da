"""A story against the model that would film it: its shots on the chunk grid, and what hinders.

Of the model only headers and configs are read, and the tokenizer: no weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from causalcine_jax.convert import abstract_network, load_tokenizer
from causalcine_jax.errors import UsageError
from causalcine_jax.film.choices import Choices, Setup, decide
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.model_folder import (
    PARTS,
    Model,
    check_parts,
    latent_size,
    model_defaults,
)
from causalcine_jax.film.record import Recipe
from causalcine_jax.film.start import SHOT_ID
from causalcine_jax.story import ResolvedStory, Shot, Story


@dataclass(frozen=True)
class StoryCheck:
    """What becomes of a story with a model.

    setup     its choices; setup.model has abstract networks
    story     with the model's size and negative prompt where it names none
    resolved  its shots on the chunk grid
    tokens    of each shot's prompt, the one that ends it included
    faults    why it cannot be filmed; empty if it can
    """

    setup: Setup
    story: Story
    resolved: ResolvedStory
    tokens: tuple[int, ...]
    faults: tuple[str, ...]


def check_story(recipe: Recipe, model: Path | None = None) -> StoryCheck:
    """Checks what `film` checks before its first chunk, but for the room that devices have.

    Raises:
      UsageError: choices of a film.json that cannot be.
      DataError: the model is missing or damaged.
    """
    folder = chosen_model(model, recorded=recipe.recorded)
    check_parts(folder, PARTS)
    setup = decide(recipe, abstract_model(folder), Choices())
    story, model = setup.story, setup.model
    if begun := recipe.recorded.get("start"):
        opening = Shot(begun["caption"], chunks=begun["chunks"], id=SHOT_ID)
        story = replace(story, shots=(opening, *story.shots))
    if story.video.height is None:
        story = replace(story, video=replace(model.video, fps=story.video.fps))
    story = replace(story, negative=story.negative or model.negative)
    resolved = story.resolve(model.chunk_frames)
    prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in resolved.shots]
    faults = [
        *_faults(lambda: model.check_prompts([*prompts, ("negative", story.negative)], story)),
        *_faults(lambda: latent_size(model, story.video.height, story.video.width)),
    ]
    tokens = tuple(model.tokenizer.count(prompt) for _, prompt in prompts)
    return StoryCheck(setup, story, resolved, tokens, tuple(faults))


def abstract_model(folder: Path) -> Model:
    """The model in `folder` with abstract arrays for weights."""
    return Model(
        abstract_network(folder, "transformer"),
        abstract_network(folder, "vae"),
        None,
        load_tokenizer(folder),
        folder=folder,
        **model_defaults(folder),
    )


def _faults(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except UsageError as error:
        return [str(error)]
    return []
