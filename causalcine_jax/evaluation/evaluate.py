"""The whole measurement: a model folder in, tables and pictures out.

model -> PRIMARY recall (recall.py) -> SECONDARY free films (free_films.py) -> evaluation.{json,md}, returns.png, recall.png
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.config import POLICIES, POOL_PLACES
from causalcine_jax.convert import weights_hash
from causalcine_jax.data.storyworld.world import WORLDS
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import nearest, raise_faults
from causalcine_jax.evaluation.batch_rollout import BatchRollout
from causalcine_jax.evaluation.free_films import FreeResult, measure_free_films
from causalcine_jax.evaluation.judge_clips import TRAINING_SEED
from causalcine_jax.evaluation.pictures import write_recall_chart, write_returns_sheet
from causalcine_jax.evaluation.reading import Judge
from causalcine_jax.evaluation.recall import RecallResult, find_returns, measure_recall, policy_configs
from causalcine_jax.evaluation.report import build_report, write_report
from causalcine_jax.generation.model_folder import Model

HELD_OUT_SEED = 424_242  # of the evaluation's stories; training uses small seeds


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured. `films` free films per policy, none for the recall alone; `batch` films side by side, their history where `pool_on` says;
    None: the model's own choice."""

    world: str = "base"
    returns: int = 200
    films: int = 20
    policies: tuple[str, ...] = ("camr", "sink", "none")
    steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    seed: int = HELD_OUT_SEED
    batch: int = 16
    pool_on: str = "device"

    def __post_init__(self):
        raise_faults("evaluation", self.faults())

    def faults(self) -> list[str]:
        faults = [] if self.world in WORLDS else [f"unknown world {self.world!r}, {nearest(str(self.world), WORLDS)}"]
        faults += [f"unknown policy {name!r}, {nearest(str(name), POLICIES)}" for name in self.policies if name not in POLICIES]
        if self.pool_on not in POOL_PLACES:
            faults.append(f"unknown pool_on {self.pool_on!r}, {nearest(str(self.pool_on), POOL_PLACES)}")
        if not self.policies:
            faults.append("name at least one policy")
        if len(set(self.policies)) < len(self.policies):
            faults.append(f"a policy is named twice in {','.join(self.policies)}")
        faults += [f"{name} must be at least 1, not {getattr(self, name)}" for name in ("returns", "batch") if getattr(self, name) < 1]
        faults += [f"{name} must not be negative, got {getattr(self, name)}" for name in ("films", "seed") if getattr(self, name) < 0]
        if self.seed == TRAINING_SEED:
            faults.append(f"seed {TRAINING_SEED} is that of the films which trained the judge")
        return faults

    def sampler(self, default: SamplerConfig) -> SamplerConfig:
        """`default` with what is asked for here in its place."""
        asked = {name: getattr(self, name) for name in ("steps", "guidance", "solver") if getattr(self, name) is not None}
        return default.changed(**asked)


@dataclass(frozen=True)
class Evaluation:
    """Results with all their details, and the report made of them."""

    recall: RecallResult
    free: FreeResult | None
    report: dict[str, Any]


def evaluate(model: Model, config: EvaluationConfig, progress: bool = True) -> Evaluation:
    """Measures `model`. Raises `UsageError` where the world does not fit it."""
    start = time.monotonic()
    engine = BatchRollout(model, WORLDS[config.world](), config.sampler(model.sampler), config.seed, pool_on=config.pool_on)
    judge, policies = Judge.load(), policy_configs(list(config.policies), model.memory)
    recall = measure_recall(engine, judge, find_returns(engine.world, config.seed, config.returns), policies, config.batch, progress)
    free = None
    if config.films:
        free = measure_free_films(engine, judge, config.films, config.seed, policies, min(config.batch, config.films), progress)
    settings = {
        **dataclasses.asdict(config),
        **{name: getattr(engine.sampler, name) for name in ("solver", "steps", "shift", "guidance")},
        "memory": dataclasses.asdict(model.memory),
        "dtype": model.dtype,
        "model": str(model.folder),
        "weights_sha256": model.folder and weights_hash(model.folder),
        "seconds": round(time.monotonic() - start, 1),
    }
    return Evaluation(recall, free, build_report(settings, recall, free))


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """evaluation.json, evaluation.md, returns.png and recall.png in `folder`. `DataError` if the disk refuses."""
    write_report(folder, evaluation.report)
    write_returns_sheet(folder / "returns.png", evaluation.recall)
    write_recall_chart(folder / "recall.png", evaluation.report)
