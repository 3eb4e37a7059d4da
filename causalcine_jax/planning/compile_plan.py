"""What a training step needs of hardware that is not present: compile it, and read the program.

TrainConfig + HardwareTarget
  -> planned_step.py: the real step, its arguments as shapes with shardings
  -> the compiler for that hardware
  -> ProgramAccount: bytes per device by part, collectives, FLOPs, a roofline;
     or the compiler's message about what does not fit
"""

import math
import re
import time
from dataclasses import dataclass
from functools import partial

import jax
from jax.sharding import Mesh

from causalcine_jax.config import PoolConfig
from causalcine_jax.planning.attained import Expected, expected
from causalcine_jax.planning.compilers import clear_faults
from causalcine_jax.planning.hardware import HardwareTarget, target, target_mesh
from causalcine_jax.planning.hlo.collectives import Collective, collectives
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.traffic import (
    Buffer,
    host_copies,
    largest_buffers,
    launches,
    memory_traffic,
)
from causalcine_jax.planning.jaxpr_flops import flops_by_kind
from causalcine_jax.planning.planned_rollout import rollout_steps
from causalcine_jax.planning.planned_step import FilmBatch, PlannedStep, training_steps
from causalcine_jax.planning.roofline import Roofline, roofline
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.growth import grown_sizes
from causalcine_jax.utils import compiler

# Memory is laid out before a GPU's machine code is made. The code never runs, so its optimisation
# is off, which halves the compile time. Without a GPU, no autotuner chooses the tiles of Triton's
# products, and some default choices do not compile; so all products use cuBLAS.
NEVER_RUN = {
    "gpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_gpu_enable_triton_gemm": False,
        **compiler.FLAGS,
    },
    "tpu": {},
}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?)\w* of ([\d.]+)([KMGT]?)\w* hbm")
# The compiler reports this before it lays anything out.
_AT_LEAST = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds")
_ALLOCATION = re.compile(
    r"Size: ([\d.]+)([KMGT]?)\w*\s+(?:Operator: op_name=\"([^\"]*)\"[^\n]*\s+)?Shape: ([^\s{]+)"
)


@dataclass(frozen=True)
class ProgramAccount:
    """One program on one device of the target; all sizes in bytes.

    every         it runs in one of this many steps
    parts         name -> (bytes on all devices, on each): its arguments, and what other programs
                  keep on the device meanwhile
    host          name -> (bytes in all, of each device's part) in host memory
    results       outputs that do not reuse an argument's memory
    temporaries   activations and everything else live during the run, as the compiler laid it out
    pool          the part of `temporaries` that is history
    total         peak bytes. Where the compiler refuses the program, the bytes that it asks for;
                  the program's own sizes are then None
    limit         bytes available
    buffers       the largest arrays that the program makes
    copied        bytes that a device copies from host memory, and to it
    seconds       of tracing and of compiling, on this machine
    """

    name: str
    every: int
    parts: dict[str, tuple[int, int]]
    host: dict[str, tuple[int, int]]
    results: int | None
    temporaries: int | None
    pool: int
    code: int | None
    total: int
    limit: int
    flops: float
    collectives: tuple[Collective, ...]
    traffic: int | None
    copied: tuple[int, int]
    roofline: Roofline | None
    expected: Expected | None
    buffers: tuple[Buffer, ...]
    seconds: dict[str, float]

    @property
    def fits(self) -> bool:
        return self.total <= self.limit


@dataclass(frozen=True)
class CompilePlan:
    """Every program of a stage, or of a rollout, on a target."""

    what: str
    config: TrainConfig
    target: HardwareTarget
    films: FilmBatch
    seq: int
    accounts: tuple[ProgramAccount, ...]

    @property
    def fits(self) -> bool:
        return all(account.fits for account in self.accounts)

    @property
    def cycle(self) -> int:
        """Steps after which every update has run a whole number of times.

        5 where one step in 5 trains the student too. A rollout's step is a chunk.
        """
        return math.lcm(*(account.every for account in self.accounts))

    @property
    def cycle_seconds(self) -> tuple[float, float] | None:
        """The roofline of a cycle: (at least, without any overlap).

        Divide by `cycle` for a step's mean. None where a program's roofline is unknown.
        """
        lines = [
            (one.roofline, self.cycle / one.every)
            for one in self.accounts
            if one.roofline is not None
        ]
        if len(lines) < len(self.accounts):
            return None
        return sum(line.bound * times for line, times in lines), sum(
            line.serial * times for line, times in lines
        )

    @property
    def cycle_expected(self) -> tuple[float, float, float] | None:
        """Expected seconds of a cycle: (expected, at least, at most). None where unknown."""
        known = [(one.expected, self.cycle / one.every) for one in self.accounts if one.expected]
        if len(known) < len(self.accounts):
            return None
        of = lambda name: sum(times * getattr(part, name) for part, times in known)
        return of("seconds"), of("least"), of("most")


def compile_plan(
    config: TrainConfig,
    topology: str,
    *,
    seq: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    rollout: PoolConfig | None = None,
) -> CompilePlan:
    """Compiles every update of the stage that `config` names, or a rollout's moves.

    Args:
      topology: a name from hardware.py, such as h200 or v5p:4x4x4.
      seq: devices that share a film; None for the config's.
      frames: latent frames of a film; None for what the config trains on.
      size: (width, height) in pixels; None for what the config trains on.
      rollout: the cache of a rollout to compile in place of the stage.

    Raises:
      UsageError: an unknown topology, a missing compiler, or a config that does not fit the mesh.
      DataError: the compiler fails for another reason than memory.
    """
    where, config = target(topology), grown_sizes(config)
    films = FilmBatch.of(config, frames, size)
    seq = getattr(config, "seq", 1) if seq is None else seq
    mesh = target_mesh(where, seq)
    steps = (
        training_steps(config, films, mesh)
        if rollout is None
        else rollout_steps(config, films, mesh, rollout)
    )
    accounts = tuple(account(step, mesh, where) for step in steps)
    what = config.stage if rollout is None else "rollout"
    return CompilePlan(what, config, where, films, seq, accounts)


def account(step: PlannedStep, mesh: Mesh, where: HardwareTarget) -> ProgramAccount:
    """Compiles one program and reads it."""
    seconds, clock = {}, time.perf_counter()
    clear = partial(clear_faults, where.chip.platform, where.name, step.name)
    with clear(), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = step.trace(*step.arguments)
        lowered = traced.lower()
    seconds["trace"] = time.perf_counter() - clock
    by_kind = flops_by_kind(traced.jaxpr, step.unknown_trips)
    flops = sum(by_kind.values())
    clock = time.perf_counter()
    try:
        with clear():
            compiled = lowered.compile(compiler_options=NEVER_RUN[where.chip.platform])
    except jax.errors.JaxRuntimeError as error:  # too little memory
        return _refused(
            step, where, flops, str(error), seconds | {"compile": time.perf_counter() - clock}
        )
    seconds["compile"] = time.perf_counter() - clock
    memory, program = compiled.memory_analysis(), parse_hlo(compiled.as_text())
    found = collectives(program, where.devices, where.domain, step.unknown_trips)
    traffic = memory_traffic(program, step.unknown_trips)
    copied = host_copies(program, step.unknown_trips)
    line = roofline(where, flops, traffic, found, copied)
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # The compiler drops unused arguments, but pads those that it reads.
    given = max(
        step.beside + memory.argument_size_in_bytes, sum(share for _, share in step.parts.values())
    )
    return ProgramAccount(
        step.name,
        step.every,
        step.parts,
        step.host,
        results=results,
        temporaries=memory.temp_size_in_bytes,
        pool=step.pool,
        code=memory.generated_code_size_in_bytes,
        total=given + results + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        limit=where.chip.memory,
        flops=flops,
        collectives=tuple(found),
        traffic=traffic,
        copied=copied,
        roofline=line,
        expected=expected(where, by_kind, line, launches(program, step.unknown_trips)),
        buffers=tuple(largest_buffers(program)),
        seconds=seconds,
    )


def _refused(
    step: PlannedStep, where: HardwareTarget, flops: float, message: str, seconds: dict[str, float]
) -> ProgramAccount:
    """The account of a program that a TPU's compiler refuses, from its error message.

    The message has sizes and the largest allocations; for a program far too large, only the
    temporaries.
    """
    limit, given = where.chip.memory, sum(share for _, share in step.parts.values())
    used, least = _USED.search(message), _AT_LEAST.search(message)
    known = (
        step.beside + _bytes(used[1], used[2])
        if used
        else given + _bytes(least[1], least[2])
        if least
        else None
    )
    total = known or max(limit + 1, given)
    buffers = tuple(
        Buffer(_bytes(size, unit), shape, source)
        for size, unit, source, shape in _ALLOCATION.findall(message)
    )
    return ProgramAccount(
        step.name,
        step.every,
        step.parts,
        step.host,
        results=None,
        temporaries=max(0, known - given) if known else None,
        pool=step.pool,
        code=None,
        total=max(total, limit + 1),
        limit=limit,
        flops=flops,
        collectives=(),
        traffic=None,
        copied=(0, 0),
        roofline=None,
        expected=None,
        buffers=buffers,
        seconds=seconds,
    )


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
