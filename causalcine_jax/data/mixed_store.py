"""Several latent stores read as one: the first's films, then the second's, and so on.

A loader shuffles them all together.
"""

import bisect
import dataclasses
import itertools

import numpy as np

from causalcine_jax.data.latent_store import LatentStore, StoreRecord
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.errors import raise_faults

SAME = (
    "latent_frames",
    "height",
    "width",
    "channels",
    "chunk_frames",
    "text_len",
    "vae",
    "tokenizer",
)


class MixedStore:
    """Stores of one VAE, tokenizer and film size.

    A record has as many rows of token ids as the store with the most shots.

    Raises:
      UsageError: the stores do not fit together; names every difference.
    """

    def __init__(self, stores: list[LatentStore]):
        first = stores[0].spec
        raise_faults(
            "data.store",
            [
                f"{store.path} has {name} {getattr(store.spec, name)!r}, "
                f"{stores[0].path} has {getattr(first, name)!r}"
                for store in stores[1:]
                for name in SAME
                if getattr(store.spec, name) != getattr(first, name)
            ],
        )
        self._stores = stores
        self._ends = list(itertools.accumulate(len(store) for store in stores))
        self.folders = [store.path for store in stores]
        self.path = ",".join(map(str, self.folders))
        self.spec: StoreSpec = dataclasses.replace(
            first,
            films=self._ends[-1],
            shots=max(s.spec.shots for s in stores),
            source={"mixed": [{**s.spec.source, "films": len(s)} for s in stores]},
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> StoreRecord:
        """Returns film `index` of all: see `LatentStore.__getitem__`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} have {len(self)} records, there is no record {index}")
        number = bisect.bisect_right(self._ends, index)
        record = self._stores[number][index - (self._ends[number - 1] if number else 0)]
        missing = self.spec.shots - len(record["token_ids"])
        return record | {
            "token_ids": np.pad(record["token_ids"], ((0, missing), (0, 0))),
            "index": np.int64(index),
        }
