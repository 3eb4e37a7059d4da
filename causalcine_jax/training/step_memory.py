"""Whether a program fits in memory, read from its compiled form before it runs.

What is checked is what runs: a program is compiled once, for each size of films.
"""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from causalcine_jax.parallel.processes import check_all
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.smaller_step import smaller_step
from causalcine_jax.utils import machine_memory

# A CPU's memory is also other programs', and what this process has freed is in its own heap.
SURE = 1.25
SMALLER_FILMS = "smaller films (data.store)"


class CheckedProgram:
    """A jitted function, compiled and checked before it runs, once for each size of batches.

    Call it under the mesh: (state, fixed networks, batch, ...). Of all but the first two the shapes
    may differ from call to call, and nothing else.

    what  it is, such as: a step of dmd
    say   is told if memory may not suffice
    """

    def __init__(
        self,
        jitted: jax.stages.Wrapped,
        what: str,
        config: TrainConfig,
        say: Callable[[str], None],
    ):
        self._jitted, self._what, self._config, self._say = jitted, what, config, say
        self._programs: dict[tuple[tuple[int, ...], ...], jax.stages.Compiled] = {}

    def compile(self, *arguments) -> jax.stages.Compiled:
        """The program for a batch of these shapes, compiled if they are new.

        `UsageError` in all processes if one has no room to run it.
        """
        shapes = tuple(map(np.shape, jax.tree.leaves(arguments[2:])))
        if shapes not in self._programs:
            program = self._jitted.lower(*arguments).compile()
            config = self._config
            lower = [*smaller_step(config, jax.device_count())]
            lower.append(f"--config.batch=N below {config.batch}")
            if not config.facts.clips:  # whose size is among the flags
                lower.append(SMALLER_FILMS)
            check_fits(program, self._what, "weights and optimizer", lower, self._say)
            self._programs[shapes] = program
        return self._programs[shapes]

    def __call__(self, *arguments):
        return self.compile(*arguments)(*arguments)


def check_fits(
    program: jax.stages.Compiled,
    what: str,
    beside: str,
    lower: Iterable[str],
    say: Callable[[str], None],
) -> None:
    """`UsageError` in all processes if one has no room to run a program.

    Args:
      what: what a run of it makes.
      beside: what is in memory already.
      lower: what makes it smaller, such as flags; at least one.
      say: is told if memory may not suffice.
    """
    fault, doubt = _judged(program, what, beside, lower)
    check_all(fault)
    if doubt:
        say(doubt)


def _judged(
    program: jax.stages.Compiled, what: str, beside: str, lower: Iterable[str]
) -> tuple[str, str]:
    """(what is wrong with a program that does not fit, a note on one that may not)."""
    needed, room = working_bytes(program), free_memory()
    if needed is None or room is None or needed <= room:
        return "", ""
    *first, last = lower
    choose = f"choose {', '.join([*first, f'or {last}' if first else last])}"
    bytes_said = f"takes {needed:,} bytes beside {beside}, and memory has {room:,} free"
    if jax.default_backend() == "cpu" and needed <= SURE * room:
        return "", f"note: memory may not suffice: {what} {bytes_said}; if it ends there, {choose}"
    return f"out of memory: {what} {bytes_said}: {choose}", ""


def working_bytes(program: jax.stages.Compiled) -> int | None:
    """Bytes that a run of a program takes of `free_memory`; None where it is not known."""
    memory = program.memory_analysis()
    if memory is None:
        return None
    sharing = len(jax.local_devices()) if jax.default_backend() == "cpu" else 1
    results = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    return sharing * (memory.temp_size_in_bytes + results)


def free_memory() -> int | None:
    """Free bytes of this process's fullest device; on a CPU the machine's. None: unknown."""
    if jax.default_backend() == "cpu":
        return machine_memory.free_memory()
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    free = [each["bytes_limit"] - each["bytes_in_use"] for each in stats if "bytes_limit" in each]
    return min(free, default=None)
