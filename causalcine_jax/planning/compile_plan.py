"""What a training step needs of hardware that is not there: it is compiled for it, and the compiled program is read.

TrainConfig + HardwareTarget -> planned_step.py: the real step, its arguments as shapes with shardings -> the compiler of that hardware
      -> ProgramAccount: bytes per device by part, collectives, FLOPs, a roofline; or what the compiler said does not fit
"""

import math
import re
import time
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from causalcine_jax.errors import DataError
from causalcine_jax.planning.hardware import HardwareTarget, target, target_mesh
from causalcine_jax.planning.hlo.collectives import Collective, collectives
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.traffic import Buffer, host_copies, largest_buffers, memory_traffic
from causalcine_jax.planning.jaxpr_flops import program_flops
from causalcine_jax.planning.planned_rollout import rollout_steps
from causalcine_jax.planning.planned_step import FilmBatch, PlannedStep, training_steps
from causalcine_jax.planning.roofline import Roofline, roofline
from causalcine_jax.training.config import TrainConfig

# A GPU's machine code is made after memory is laid out. It is never run here, so it need not be fast, and is made in half the time. Without a GPU
# nothing chooses the tiles of Triton's products: some choices that are then taken do not compile, so all products are cuBLAS's.
NEVER_RUN = {
    "gpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_gpu_enable_triton_gemm": False,
    },
    "tpu": {},
}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?)\w* of ([\d.]+)([KMGT]?)\w* hbm")
_AT_LEAST = re.compile(
    r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds"
)  # said before anything is laid out
_ALLOCATION = re.compile(
    r"Size: ([\d.]+)([KMGT]?)\w*\s+(?:Operator: op_name=\"([^\"]*)\"[^\n]*\s+)?Shape: ([^\s{]+)"
)


@dataclass(frozen=True)
class ProgramAccount:
    """One program on one device of the target, all sizes in bytes.

    every         it runs in one of so many steps
    parts         name -> (on all devices, on each) of what lies there while it runs: what it is given, and what other programs need
    host          the same of what lies in host memory: (in all, of each device's part)
    results       what it returns beside what it was given to write into
    temporaries   activations and all else that lives while it runs, as laid out by the compiler; `pool` is the part of them that is history
    total         the most at one time, `limit` what there is. Where the compiler refuses, total is what it says that it needs, and the program's own sizes are unknown
    buffers       the largest arrays that the program makes
    copied        what a device copies from host memory, and to it
    seconds       of tracing and of compiling, here
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
        """Steps after which all updates have run as often as they should: 5 where one in 5 trains the student too. A rollout's step is a chunk."""
        return math.lcm(*(account.every for account in self.accounts))

    @property
    def cycle_seconds(self) -> tuple[float, float] | None:
        """The roofline of a cycle: at least, and if nothing overlaps. A step's mean is that over `cycle`. None where a program's is unknown."""
        lines = [(one.roofline, self.cycle / one.every) for one in self.accounts]
        if any(line is None for line, _ in lines):
            return None
        return sum(line.bound * times for line, times in lines), sum(
            line.serial * times for line, times in lines
        )


def compile_plan(
    config: TrainConfig,
    topology: str,
    *,
    seq: int | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    rollout: bool = False,
    pool_frames: int | None = None,
    kv_dtype: str = "same",
    pool_on: str = "device",
) -> CompilePlan:
    """Compiles every update of the stage that `config` names for `topology`, whose devices work on a film in groups of `seq`; or a rollout's moves.

    seq           None for the config's
    frames, size  of the films: latent frames, and (width, height) in pixels; None for what the config trains on
    pool_frames   of a rollout's history; None for the whole film
    kv_dtype      how that stores keys and values: as they are, or as int8 or fp8; pool_on: where, device or host

    Raises:
      UsageError: no such topology, its compiler is not installed, or config and mesh do not fit together.
    """
    where = target(topology)
    films = FilmBatch.of(config, frames, size)
    seq = getattr(config, "seq", 1) if seq is None else seq
    mesh = target_mesh(where, seq)
    steps = (
        rollout_steps(config, films, mesh, pool_frames, kv_dtype, pool_on)
        if rollout
        else training_steps(config, films, mesh)
    )
    accounts = tuple(account(step, mesh, where) for step in steps)
    return CompilePlan("rollout" if rollout else config.stage, config, where, films, seq, accounts)


def account(step: PlannedStep, mesh: Mesh, where: HardwareTarget) -> ProgramAccount:
    """Compiles one program and reads it."""
    seconds, clock = {}, time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = step.trace(*step.arguments)
        lowered = traced.lower()
    seconds["trace"] = time.perf_counter() - clock
    flops = program_flops(traced.jaxpr, step.unknown_trips)
    clock = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=NEVER_RUN[where.chip.platform])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            said = str(error).splitlines()[0]
            raise DataError(
                f"the compiler for {where.name} fails at {step.name}, which is a fault of its own or of this program's: {said}"
            ) from error
        return _refused(
            step, where, flops, str(error), seconds | {"compile": time.perf_counter() - clock}
        )
    seconds["compile"] = time.perf_counter() - clock
    memory, program = compiled.memory_analysis(), parse_hlo(compiled.as_text())
    found = collectives(program, where.devices, where.domain, step.unknown_trips)
    traffic = memory_traffic(program, step.unknown_trips)
    copied = host_copies(program, step.unknown_trips)
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # The compiler leaves out what it is given for nothing, but pads what it reads.
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
        roofline=roofline(where, flops, traffic, found, copied),
        buffers=tuple(largest_buffers(program)),
        seconds=seconds,
    )


def _refused(
    step: PlannedStep, where: HardwareTarget, flops: float, said: str, seconds: dict[str, float]
) -> ProgramAccount:
    """What a TPU's compiler says of a program that does not fit: sizes, and its largest allocations; of one far too large its temporaries alone."""
    limit, given = where.chip.memory, sum(share for _, share in step.parts.values())
    used, least = _USED.search(said), _AT_LEAST.search(said)
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
        for size, unit, source, shape in _ALLOCATION.findall(said)
    )
    return ProgramAccount(
        step.name, step.every, step.parts, step.host, results=None, temporaries=max(0, known - given) if known else None, pool=step.pool, code=None,
        total=max(total, limit + 1), limit=limit, flops=flops, collectives=(), traffic=None, copied=(0, 0), roofline=None, buffers=buffers, seconds=seconds,
    )  # fmt: skip


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
