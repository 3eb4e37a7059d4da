"""Training batches from a latent store: reshuffled each epoch, split between processes.

    store -> readable records (the next one replaces a damaged one)
          -> one global order, reshuffled every epoch, without end
          -> batches of numpy arrays, of which this process has its part

Where films have several lengths, heights or widths, each size has such an order and batches of its
own. The batches take turns, each size as often as it has films (to 1 %). So nothing is padded.

Resuming is exact to the batch, and the order depends on the seed alone.
Batch n, joined over processes, is the same for any number of processes.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from causalcine_jax.data.latent_store import CorruptRecord, LatentStore, StoreRecord
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import DataError, raise_faults, range_faults
from causalcine_jax.parallel.gathering import films_of_all
from causalcine_jax.parallel.processes import check_same_films

log = logging.getLogger(__name__)

Visit = Callable[[StoreRecord, np.random.Generator], StoreRecord]

BEHIND = 2
EPOCHS = 10**6  # no run gets to the end; grain's endless repeat overflows in batches of 1


class ReadableRecords:
    """A random-access source: a store whose damaged records read as the next readable one.

    That one is of the same size. Replacing depends on the store alone, so order and shapes of
    batches stay the same in every run. `bad` holds the damaged records met so far. If they exceed
    `max_bad_fraction` of the store, reading raises DataError.
    """

    def __init__(self, store: LatentStore | MixedStore, max_bad_fraction: float):
        self._store = store
        self._allowed = int(max_bad_fraction * len(store))
        self._lock = threading.Lock()
        self.bad: set[int] = set()

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> StoreRecord:
        alike = next(films for films in self._store.alike if index in films)
        for step in range(len(alike)):
            candidate = alike[(index - alike.start + step) % len(alike)]
            if candidate in self.bad:
                continue
            try:
                return self._store[candidate]
            except CorruptRecord as error:
                self._count(candidate, error)
        which = f"none of {len(alike)} records" if len(alike) < len(self) else "no record"
        raise DataError(f"{self._store.path}: {which} can be read; encode the films again")

    def __repr__(self) -> str:
        return f"ReadableRecords({self._store.path})"

    def _count(self, index: int, error: CorruptRecord) -> None:
        with self._lock:
            if index in self.bad:
                return
            self.bad.add(index)
            bad = sorted(self.bad)
        if len(bad) > self._allowed:
            raise DataError(
                f"{self._store.path}: {len(bad)} of {len(self)} records cannot be read "
                f"({_listed(bad)}), max_bad_fraction allows {self._allowed}; copy the store "
                f"again, or delete it and encode it again. The last: {error}"
            ) from error
        log.warning(
            "skipped record %d, bad record %d of at most %d: %s",
            index,
            len(bad),
            self._allowed,
            error,
        )


@dataclass(frozen=True)
class _Films:
    """A random-access source: some films of another one."""

    records: ReadableRecords
    films: range

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> StoreRecord:
        return self.records[self.films[index]]


@dataclass(frozen=True)
class OwnPart:
    """The part of every global batch that this process reads: the index-th of `count`.

    sharing  processes that read this same part. They compare the films of every batch
    """

    index: int = 0
    count: int = 1
    sharing: int = 1


class Loader(grain.DatasetIterator):
    """An iterator of endless batches of this process's films, with a position to save.

    A batch: {"latents" float32 [B,F,h,w,z] normalised, "token_ids" int32 [B,S,T],
    "shot_of_chunk" int32 [B,N], "index" int64 [B]}. All its films have one size. orbax saves and
    restores the position as any grain iterator's:
    `save_checkpointables(step, {"state": ..., "data": loader})`.

    Args:
      store: what to read.
      batch_size: films per batch of this process.
      seed: of the order of the films.
      part: this process's part of every global batch.
      threads: threads that read ahead; 0 reads in `next`, which is enough for small films.
      max_bad_fraction: fraction of damaged records above which `next` raises DataError.
      visits: what changes a record each time it is read, in this order (film_parts.py,
        retelling.py). Their draws depend on the seed and the film's place in the order.

    Raises:
      UsageError: all faults of the arguments at once.
    """

    def __init__(
        self,
        store: LatentStore | MixedStore,
        batch_size: int,
        *,
        seed: int = 0,
        part: OwnPart = OwnPart(),
        threads: int = 0,
        max_bad_fraction: float = 0.01,
        visits: Sequence[Visit] = (),
    ):
        super().__init__()
        self._batches: Any = None  # if arguments are refused, grain's __del__ still closes
        faults = range_faults("batch_size", batch_size, 1)
        if not 0 <= part.index < part.count:
            faults.append(f"part.index must be in 0..{part.count - 1}, not {part.index}")
        faults += range_faults("seed", seed, 0, 2**32 - 1)
        faults += range_faults("threads", threads, 0)
        faults += range_faults("max_bad_fraction", max_bad_fraction, 0, 1, open_high=True)
        raise_faults("loader", faults)
        self._records, self._sharing = ReadableRecords(store, max_bad_fraction), part.sharing
        self._unchecked: deque = deque()
        self._of_size = [
            _batches_of(_Films(self._records, films), visits, (seed + number) % 2**32, batch_size)[
                part.index :: part.count
            ]
            for number, films in enumerate(store.alike)
        ]
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        of_all = grain.MapDataset.mix(self._of_size, [*map(len, store.alike)])
        self._batches = iter(of_all.to_iter_dataset(options))
        # A position is valid only for these values, the same in all processes; set_state checks.
        films: Any = len(store) if len(store.alike) == 1 else [*map(len, store.alike)]
        self._order = {"films": films, "batch_size": batch_size * part.count, "seed": seed}

    @property
    def bad_records(self) -> tuple[int, ...]:
        """Records skipped so far because they cannot be read."""
        return tuple(sorted(self._records.bad))

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          DataError: too many records are damaged, the storage cannot be read, or processes that
            share films got different ones, BEHIND batches before.
        """
        batch = next(self._batches)
        if self._sharing > 1:
            # What other processes have is read BEHIND batches later: a host that waited for it now
            # would wait for the steps before.
            self._unchecked.append(films_of_all(batch["index"]))
            if len(self._unchecked) > BEHIND:
                check_same_films(self._unchecked.popleft(), self._sharing)
        return batch

    def of_each_size(self) -> list[dict[str, np.ndarray]]:
        """A batch of every size of films, without taking any; none if all have one size."""
        return [batches[0] for batches in self._of_size] if len(self._of_size) > 1 else []

    def get_state(self) -> dict[str, Any]:
        """Returns the position, as JSON."""
        return {"order": self._order, "position": self._batches.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position from `get_state`.

        Raises:
          UsageError: a loader of another order saved it.
        """
        differing = [
            f"{name} was {state['order'][name]}, is {value}"
            for name, value in self._order.items()
            if state["order"][name] != value
        ]
        raise_faults("cannot resume the data where it was", differing)
        self._batches.set_state(state["position"])

    def close(self) -> None:
        """Ends the threads; from then on `next` raises ValueError."""
        if self._batches is not None:
            self._batches.close()
        super().close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _batches_of(
    films: _Films, visits: Sequence[Visit], seed: int, batch_size: int
) -> grain.MapDataset:
    """Endless batches of all processes."""
    ordered = grain.MapDataset.source(films).seed(seed).shuffle().repeat(EPOCHS)
    for visit in visits:
        ordered = ordered.random_map(visit)
    return ordered.batch(batch_size)


def _listed(indices: list[int], limit: int = 10) -> str:
    listed = ", ".join(map(str, indices[:limit]))
    return listed if len(indices) <= limit else f"{listed}, ..."
