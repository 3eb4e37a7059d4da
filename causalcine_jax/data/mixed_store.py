"""Several latent stores read as one: the first's films, then the second's, and so on.

A loader shuffles all films of one size together. Films of another length, height or width are other
arrays, so a batch never mixes sizes (loader.py).
"""

import bisect
import dataclasses
import itertools

import numpy as np

from causalcine_jax.data.latent_store import LatentStore, StoreRecord
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.errors import raise_faults

SAME = (
    "channels",
    "chunk_frames",
    "text_len",
    "vae",
    "tokenizer",
)


class MixedStore:
    """Stores of one VAE and tokenizer. Those with films of one size stand together.

    A record has as many rows of token ids as the store with the most shots.

    spec     of all films; its sizes are those of the first store
    sizes    a spec for each size of films, in the order of `alike`
    alike    the films of each size

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
        of_size: dict[tuple[int, ...], list[LatentStore]] = {}
        for store in stores:
            of_size.setdefault(store.spec.shapes()["latents"], []).append(store)
        stores = [store for group in of_size.values() for store in group]
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

        counts = [sum(map(len, group)) for group in of_size.values()]
        ends = list(itertools.accumulate(counts))
        self.alike = [range(end - count, end) for end, count in zip(ends, counts)]
        self.sizes = [group[0].spec for group in of_size.values()]

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
