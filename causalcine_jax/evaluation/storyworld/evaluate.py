"""The whole evaluation: a model folder in, tables and pictures out.

model -> PRIMARY recall (recall.py) -> SECONDARY free films (free_films.py)
      -> evaluation.{json,md}, returns.png, recall.png
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.convert import weights_hash
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.config import FILES, EvaluationConfig
from causalcine_jax.evaluation.storyworld.free_films import FreeResult, measure_free_films
from causalcine_jax.evaluation.storyworld.pictures import write_recall_chart, write_returns_sheet
from causalcine_jax.evaluation.storyworld.reading import Judge
from causalcine_jax.evaluation.storyworld.recall import (
    RecallResult,
    find_returns,
    measure_recall,
)
from causalcine_jax.evaluation.storyworld.report import build_report, markdown
from causalcine_jax.evaluation.tables import write_report
from causalcine_jax.film.model_folder import Model
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.storyworld.world import WORLDS
from causalcine_jax.utils.output import remove_files


@dataclass(frozen=True)
class Evaluation:
    """Results in all their details, and the report made from them."""

    recall: RecallResult
    free: FreeResult | None
    report: dict[str, Any]


def evaluate(model: Model, config: EvaluationConfig) -> Evaluation:
    """Measures `model`.

    Raises:
      UsageError: the world does not fit the model, or a policy would retrieve no frames.
    """
    start = time.monotonic()
    policies = policies_of(model.memory, config.policies)
    engine = BatchRollout(
        model,
        WORLDS[config.world](),
        config.sampler(model.sampler),
        config.seed,
        pool=PoolConfig(on=config.pool_on),
    )
    judge = Judge.load()
    window = model.memory.window_chunks
    recall = measure_recall(
        engine,
        judge,
        find_returns(engine.world, config.seed, config.returns, config.most_shown, window),
        policies,
        min(config.batch, config.returns),
    )
    free = None
    if config.films:
        free = measure_free_films(
            engine,
            judge,
            config.films,
            config.seed,
            policies,
            min(config.batch, config.films),
        )
    settings = {
        **dataclasses.asdict(config),
        "policies": list(policies),
        **{
            name: getattr(engine.sampler, name)
            for name in ("solver", "steps", "shift", "guidance", "memory_guidance")
        },
        "memory": dataclasses.asdict(model.memory),
        "dtype": model.dtype,
        "model": str(model.folder),
        "weights_sha256": model.folder and weights_hash(model.folder),
        "seconds": round(time.monotonic() - start, 1),
    }
    return Evaluation(recall, free, build_report(settings, recall, free))


def policies_of(memory: MemoryConfig, names: Sequence[str] | None) -> dict[str, MemoryConfig]:
    """The model's memory under each policy; None: those of a default evaluation that differ.

    Raises:
      UsageError: a named policy would retrieve no frames, so its row would repeat that of `none`.
    """
    if names is None:
        names = (memory.policy, "sink", "none") if memory.memory_frames else ("none",)
    elif not memory.memory_frames and (scored := [n for n in names if POLICIES[n].score]):
        raise UsageError(
            f"{', '.join(scored)} would retrieve nothing, because this model has 0 memory frames: "
            "measure it with --policies none"
        )
    return {name: dataclasses.replace(memory, policy=name) for name in names}


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes FILES into `folder`, in place of an earlier evaluation; evaluation.json comes last.

    Raises:
      DataError: writing failed.
    """
    remove_files(folder, FILES)
    write_returns_sheet(folder / "returns.png", evaluation.recall)
    write_recall_chart(folder / "recall.png", evaluation.report)
    write_report(folder, "evaluation", evaluation.report, markdown(evaluation.report))
