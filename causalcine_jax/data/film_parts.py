"""Films cut to a few chunks in a row, so that a batch holds many beginnings of shots.

A film of ten chunks begins without history once. Cut to one chunk at a shot's start, every film
teaches what a prompt looks like when there is nothing to copy from. It takes a tenth of the tokens.
"""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.data.latent_store import StoreRecord


@dataclass(frozen=True)
class FilmParts:
    """Cuts a record to `chunks` chunks that begin with a shot, drawn evenly: a grain random map.

    chunks        length of a part; a record must have as many
    chunk_frames  latent frames of a chunk

    The part's "first_chunk" says where in the film it begins. It keeps the prompts of its own
    shots, at most one per chunk.
    """

    chunks: int
    chunk_frames: int

    def __call__(self, record: StoreRecord, rng: np.random.Generator) -> StoreRecord:
        shots = record["shot_of_chunk"]
        starts = np.flatnonzero(np.diff(shots, prepend=-1))
        first = int(rng.choice(starts[starts + self.chunks <= len(shots)]))
        part = slice(first, first + self.chunks)
        frames = slice(first * self.chunk_frames, part.stop * self.chunk_frames)
        ids = record["token_ids"]
        own = np.zeros((min(self.chunks, len(ids)), ids.shape[1]), ids.dtype)
        told = ids[shots[first] :][: len(own)]
        own[: len(told)] = told
        return record | {
            "latents": record["latents"][frames].copy(),  # a view would keep the whole film
            "shot_of_chunk": shots[part] - shots[first],
            "token_ids": own,
            "first_chunk": np.int32(first),
        }
