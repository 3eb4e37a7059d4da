"""Checks a story against a model: its shots on the chunk grid, and all faults.

Reads the model's headers, configs and tokenizer, but no weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.convert import abstract_network, load_tokenizer
from causalcine_jax.errors import UsageError
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.model_folder import (
    PARTS,
    Model,
    check_parts,
    latent_size,
    model_defaults,
)
from causalcine_jax.film_folder.choices import Choices, Setup, decide
from causalcine_jax.film_folder.record import Recipe, with_start
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.story import ResolvedStory, Story


@dataclass(frozen=True)
class StoryCheck:
    """A story resolved for a model.

    setup     the film's choices; setup.model has abstract networks
    story     with the model's size and negative prompt where the story sets none
    resolved  the story's shots on the chunk grid
    tokens    token count of each shot's prompt, including the end token
    faults    why it cannot be filmed; empty if it can
    """

    setup: Setup
    story: Story
    resolved: ResolvedStory
    tokens: tuple[int, ...]
    faults: tuple[str, ...]


def check_story(recipe: Recipe, model: Path | None = None) -> StoryCheck:
    """Checks what `film` checks before its first chunk, except the memory of devices.

    Raises:
      UsageError: invalid choices in a film.json.
      DataError: the model is missing or damaged.
    """
    folder = chosen_model(model, recorded=recipe.record)
    check_parts(folder, PARTS)
    setup = decide(recipe, abstract_model(folder), Choices())
    story, planned = setup.story, setup.model
    if start := recipe.record.start:
        story = with_start(story, start)
    story = planned.completed(story)
    assert planned.tokenizer is not None
    tokenizer = planned.tokenizer
    resolved = story.resolve(planned.chunk_frames)
    prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in resolved.shots]
    faults = [
        *_faults(lambda: planned.check_prompts([*prompts, ("negative", story.negative)], story)),
        *_faults(lambda: latent_size(planned, *story.video.size)),
    ]
    tokens = tuple(tokenizer.count(prompt) for _, prompt in prompts)
    return StoryCheck(setup, story, resolved, tokens, tuple(faults))


def abstract_model(folder: Path) -> Model:
    """The model in `folder` with abstract arrays for weights."""
    transformer, vae = (abstract_network(folder, part)[1] for part in ("transformer", "vae"))
    assert isinstance(transformer, Transformer) and isinstance(vae, VAE)
    return Model(
        transformer,
        vae,
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
