"""A film by the model in training, of a story that it is not trained on.

With data.embeddings its prompts are embedded before a network is loaded, so that the text encoder
is never beside the networks in training.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax

from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.parallel.gathering import several
from causalcine_jax.story import Shot, Story, read_story
from causalcine_jax.storyworld import WorldConfig, WorldStory, sample_story
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.film_stores import film_vae, open_store
from causalcine_jax.training.known_prompts import (
    embed_sample,
    embeddings_for,
    known_prompts,
    sizes_of,
    text_model,
)

SAMPLE_SEED = 31_337  # of the sampled stories; neither training nor evaluation uses it
SEVERAL = "several processes make no film in training: film OUT/model afterwards"
NO_STORY = (
    "no film is made in training: the data is not StoryWorld's, and sample.story names no story"
)


def as_story(told: WorldStory, seed: int) -> Story:
    """A StoryWorld story as one that a director can film: its captions and lengths."""
    return Story(
        tuple(Shot(shot.caption, chunks=shot.chunks) for shot in told.shots),
        told.global_caption,
        seed,
    )


def sampling(
    config: TrainConfig, spec: StoreSpec, tokenizer: Tokenizer
) -> tuple[Callable[[Path, Path, int], None] | None, tuple[str, ...]]:
    """What films a run's samples, (model, folder, step) -> None, and what the run says of it.

    All samples show one story, so that they can be compared: sample.story, else a StoryWorld story
    if the data is StoryWorld's. Without either no film is made.

    Raises, before any training:
      DataError, UsageError: sample.story cannot be read, or the model cannot read its prompts.
    """
    if not (config.sample.at_end or config.sample.every):
        return None, ()
    if several():  # a film is agreed on by all processes, and the first alone exports
        return None, (SEVERAL,)
    story = _story(config, spec, tokenizer)
    if story is None:
        return None, (NO_STORY,)

    def sample(model: Path, out: Path, step: int) -> None:
        del step  # the story is the same at every step
        known = config.data.embeddings and embed_sample(config, story, tokenizer)
        choices = Choices(embeddings=embeddings_for(known, model) if known else None)
        with jax.default_matmul_precision(None):  # as `causalcine film` would make it again
            generate(
                Recipe(story), out, model=model, choices=choices, progress=False, overwrite=True
            )

    return sample, ()


def embed_ahead(config: TrainConfig, tokenizer: Tokenizer) -> None:
    """With data.embeddings: checks those of the store, and embeds the prompts of sample films.

    Call it before networks are loaded. Raises as `known_prompts` and `sampling`.
    """
    if not config.data.embeddings:
        return
    sizes, _ = sizes_of(text_model(config))
    sized = replace(config, transformer=sizes)
    vae = film_vae(config)
    store = open_store(config, vae, sizes)
    known_prompts(config, store, tokenizer)
    wanted = vae and (config.sample.at_end or config.sample.every) and not several()
    if wanted and (story := _story(sized, store.spec, tokenizer)):
        embed_sample(config, story, tokenizer)


def _story(config: TrainConfig, spec: StoreSpec, tokenizer: Tokenizer) -> Story | None:
    """The story of all samples; None where there is none."""
    if config.sample.story:
        return _read_story(config, tokenizer)
    worlds = [source["storyworld"] for source in spec.sources if "storyworld" in source]
    if not worlds:
        return None
    told = sample_story(SAMPLE_SEED, config.seed, WorldConfig(**worlds[0]))
    return as_story(told, config.seed)


def _read_story(config: TrainConfig, tokenizer: Tokenizer) -> Story:
    story = read_story(config.sample.story)
    shots = story.resolve(config.chunk_frames).shots
    prompts = [(f"{config.sample.story}: shot {shot.id!r}", shot.prompt) for shot in shots]
    check_prompts(prompts, tokenizer, config.transformer.text_len, story)
    return story
