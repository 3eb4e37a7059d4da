"""One function over many rows, in this process or in several.

A file that ends its process, as a damaged one may in a decoder, gets a reason, and the others go
on. It is found by giving the rows of that moment to a process each.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from causalcine_jax.cli import cores
from causalcine_jax.data.video.filters import Reason

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result | Reason]]:
    """Yields every task with the function's result, or the reason why it has none, in any order.

    A reason is a tuple, and no result is.

    Args:
      function: of a module, so that other processes can import it. What it raises ends the work.
      tasks: can be pickled.
      workers: processes; 1 calls the function in this one.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, function(task)
        return
    broken = []
    with _Pool(min(workers, len(tasks))) as pool:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                broken.append(futures[future])
    for task in broken:
        with _Pool(1) as pool:
            try:
                yield task, pool.submit(function, task).result()
            except BrokenProcessPool:
                yield (
                    task,
                    ("crash", "the process that read it died: is it damaged, or memory low?"),
                )


class _Pool(ProcessPoolExecutor):
    """Processes that end with this one, however it ends."""

    def __init__(self, workers: int):
        context = multiprocessing.get_context("spawn")  # forking is unsafe with JAX's threads
        self._before = set(multiprocessing.active_children())
        super().__init__(workers, context, _begin, (context.Value("i"), workers))

    def __exit__(self, kind, *rest) -> None:
        if kind is not None:  # do not wait for what is not wanted any more
            for child in set(multiprocessing.active_children()) - self._before:
                child.terminate()
        self.shutdown(cancel_futures=True)


def _begin(counter, workers: int) -> None:
    """What a process does first: it takes its share of the cores, and leaves devices alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    # XLA starts a thread per allowed core, so restrict the cores before it starts.
    if hasattr(os, "sched_setaffinity"):
        mine = cores()
        os.sched_setaffinity(0, mine[index % len(mine) :: workers])
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
