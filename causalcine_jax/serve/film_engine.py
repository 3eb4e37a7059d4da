"""The engine with a model: directors of film/director.py, all of one size of history.

This module imports jax. All but `check` and `pool_bytes` runs on the device's thread.
"""

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from causalcine_jax.clock import TEMPORAL_STRIDE, first_frame_of_chunk
from causalcine_jax.config import PoolConfig
from causalcine_jax.convert import weights_hash
from causalcine_jax.film.director import Director
from causalcine_jax.film.journal import kept_pool
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.pool import chunk_bytes, device_memory, frames_wanted
from causalcine_jax.film.prompts import knows_storyworld_only
from causalcine_jax.film_folder import record as provenance
from causalcine_jax.film_folder.loaded_model import LoadedModel, added_files, on_mesh
from causalcine_jax.serve.parts import ModelInfo
from causalcine_jax.story import Story
from causalcine_jax.story_schema import SCHEMA
from causalcine_jax.storyworld.lexicon import kinds, lexicon
from causalcine_jax.utils.environment import device, software

ROOM = 0.5  # of free memory for history: while it branches, a film has two
UNKNOWN_MEMORY = 4 * 10**9
EXAMPLE_CHUNKS = 4  # of each shot
WARM_CHUNKS = 2  # the first and the later ones have programs of their own


class FilmEngine:
    """See engine.Engine.

    pool        of every session, with its frames
    room_bytes  None: a share of what memory is free
    """

    def __init__(self, asked: LoadedModel, pool: PoolConfig, room_bytes: int | None = None):
        self.asked, self.model, self.pool = asked, asked.model, pool
        model = asked.model
        self._frames = frames_wanted(model.memory, model.chunk_frames, None, pool.frames)
        self.room_bytes = room_bytes or int(ROOM * (device_memory() or UNKNOWN_MEMORY))
        height, width = model.video.size
        self.info = ModelInfo(
            name=model.name,
            width=width,
            height=height,
            fps=model.video.fps,
            chunk_frames=TEMPORAL_STRIDE * model.chunk_frames,
            first_chunk_frames=first_frame_of_chunk(1, model.chunk_frames),
            words=kinds() if _storyworld(model) else None,
            example=_example() if _storyworld(model) else None,
        )

    def device_context(self) -> AbstractContextManager[None]:
        return on_mesh(self.asked.mesh)

    def warm_up(self) -> None:
        """Compiles what a film of the model's own size needs."""
        director = self.begin(Story(()))
        director.add_shot("Mia." if self.info.words else "A film.", chunks=WARM_CHUNKS)
        for _ in director:
            pass
        next(director.branch("s1"), None)

    def pool_bytes(self, story: Story, folder: Path | None = None) -> int:
        # A kept film goes on with the pool it began with: another one would make another film.
        pool = self.pool if folder is None else kept_pool(folder)
        size = latent_size(self.model, *self.model.completed(story).video.size)
        histories = self.model.sampler.histories
        of_chunk = chunk_bytes(self.model, histories, size, pool.kv_dtype, self.model.memory)
        frames = self._frames if folder is None else pool.frames or self._frames
        return frames // self.model.chunk_frames * of_chunk

    def begin(self, story: Story) -> Director:
        return Director(self.model, story, pool=self.pool)

    def resume(self, folder: Path) -> Director:
        return Director.resume(folder, self.model, from_beginning=True)

    def check(self, prompts: list[tuple[str, str]], story: Story) -> None:
        self.model.check_prompts(prompts, story)

    def record(self, director: Director) -> dict[str, Any]:
        return {
            **provenance.recorded_settings(director),
            "model": self.info.name,
            **self._files,
            "software": software(),
            "device": {**device(), **self.asked.placement},
        }

    @functools.cached_property
    def _files(self) -> dict[str, Any]:
        folder = self.model.folder
        weights = "" if folder is None else weights_hash(folder)
        return {"weights_sha256": weights, **added_files(self.asked.choices)}


def _storyworld(model: Model) -> bool:
    return model.tokenizer is not None and knows_storyworld_only(model.tokenizer)


def _example() -> dict[str, Any]:
    """A story of StoryWorld's own."""
    told = lexicon()["examples"][0]
    shots = [{"caption": caption, "chunks": EXAMPLE_CHUNKS} for caption in told["captions"]]
    return {"schema": SCHEMA, "global": told["global"], "shots": shots}
