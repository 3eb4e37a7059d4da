"""Rewords StoryWorld's prompts at every visit of a film, and weighs its chunks in the loss.

The latents stay as stored. New prompts give the same characters other names.
A name then means only what the captions say, and a caption is never seen twice.
A part of a film is told as a film of its own, so looks are named where its characters first appear.
"""

import functools
from dataclasses import dataclass

import numpy as np

from causalcine_jax.data.latent_store import StoreRecord
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.errors import UsageError
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.storyworld import (
    WorldConfig,
    WorldStory,
    part_of,
    retold,
    returns,
    sample_story,
)

# Drawing a story takes longer than reading its film, and each film is read many times.
_story = functools.lru_cache(maxsize=10_000)(sample_story)


@dataclass(frozen=True)
class Retelling:
    """Replaces a record's token ids and adds "chunk_weight", float32 [N]: a grain random map.

    return_weight  weight of a chunk in which a character comes back after an absence longer
                   than the window; all other chunks weigh 1
    """

    spec: StoreSpec
    tokenizer: Tokenizer
    return_weight: float = 1.0

    def __post_init__(self):
        for source in self.spec.sources:
            if "storyworld" not in source:
                raise UsageError(
                    "data.retell needs latent stores of StoryWorld films: "
                    "no other source can be reworded"
                )

    def __call__(self, record: StoreRecord, rng: np.random.Generator) -> StoreRecord:
        story = self.story(int(record["index"]))
        chunks = len(record["shot_of_chunk"])
        story = retold(part_of(story, int(record.get("first_chunk", 0)), chunks), rng)
        ids = np.zeros_like(record["token_ids"])
        told, _ = self.tokenizer(list(story.prompts()), self.spec.text_len)
        ids[: len(told)] = told
        weight = np.ones(chunks, np.float32)
        weight[[back.chunk for back in returns(story)]] = self.return_weight
        return record | {"token_ids": ids, "chunk_weight": weight}

    def story(self, index: int) -> WorldStory:
        """Returns the story of film `index` of the store, or of several stores read as one."""
        for source in self.spec.sources:
            films = source.get("films", self.spec.films)
            if index < films:
                return _story(source["seed"], index, WorldConfig(**source["storyworld"]))
            index -= films
        raise IndexError(f"there is no film {index} in {self.spec.source}")
