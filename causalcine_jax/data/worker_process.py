"""What a process that was started to share work does first."""

import multiprocessing
import os
import sys
import threading

from causalcine_jax.cli import cores


def begin_worker(index: int, count: int) -> None:
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
