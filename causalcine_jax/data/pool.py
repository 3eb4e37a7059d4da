"""One function over many tasks, in this process or in several.

A task that crashes its process gets a reason as its result, and the others continue. To find that
task, every one without a result is run again in a process of its own.
"""

import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from causalcine_jax.cli import cores
from causalcine_jax.utils.interrupts import children_without_ctrl_c

Task = TypeVar("Task")
Result = TypeVar("Result")
Reason = tuple[str, str]  # its kind, and what exactly
CRASH = "crash", "the process that read it died: is it damaged, or memory low?"


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
    if workers == 1:
        for task in tasks:
            yield task, function(task)
        return
    if len(tasks) < 2:  # what ended its process in an earlier run may be all that is left
        yield from alone(function, tasks)
        return
    waiting, lost = iter(tasks), []
    while more := (yield from _until_a_crash(function, waiting, min(workers, len(tasks)))):
        lost += more
    yield from alone(function, lost)


def alone(
    function: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result | Reason]]:
    """As `each`, every task in a process of its own."""
    for task in tasks:
        with _Pool(1) as pool:
            try:
                with children_without_ctrl_c():
                    future = pool.submit(function, task)
                yield task, future.result()
            except BrokenProcessPool:
                yield task, CRASH


def _until_a_crash(
    function: Callable[[Task], Result], waiting: Iterator[Task], workers: int
) -> Generator[tuple[Task, Result], None, list[Task]]:
    """Yields tasks with results until all are done or a process crashes.

    Returns the tasks that were running or begun then: few, because few are handed in at once.
    """
    running: dict[Future[Result], Task] = {}
    lost: list[Task] = []
    with _Pool(workers) as pool:
        while not lost:
            for task in itertools.islice(waiting, 2 * workers - len(running)):
                try:
                    with children_without_ctrl_c():
                        running[pool.submit(function, task)] = task
                except BrokenProcessPool:
                    lost.append(task)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    yield task, future.result()
                except BrokenProcessPool:
                    lost.append(task)
        for future, task in running.items():  # after a crash all end at once
            try:
                yield task, future.result()
            except BrokenProcessPool:
                lost.append(task)
    return lost


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
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    _take_share(index, workers)
    leave_devices()


def _take_share(index: int, count: int) -> None:
    """Takes this worker's share of the cores, and ends the process when its parent dies.

    Call it before jax starts: XLA starts a thread per allowed core. A dead parent's lock on its
    output is free for others, so its workers must not go on writing.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # called in a child alone

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        mine = cores()
        os.sched_setaffinity(0, mine[index % len(mine) :: count])


def leave_devices() -> None:
    """This process and its children run on the CPU alone. Call it before jax starts its devices."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
