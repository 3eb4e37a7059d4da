"""What every stage of `causalcine prepare` shares: the request, its rows on disk, its counts."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.executors import Executor, Processes
from causalcine_jax.data.video.filters import reject
from causalcine_jax.data.video.manifest import Manifest, Row, path_text
from causalcine_jax.errors import printable
from causalcine_jax.utils.progress import progress_bar

PAID = ("captions",)  # stages whose rows may have cost money


@dataclass(frozen=True)
class Work:
    """One run. Stages append to `rejects`, and count the lengths of `runs` of shots, in chunks.

    executor  where the stages run
    """

    config: PrepareConfig
    progress: bool = True
    rejects: list[Row] = field(default_factory=list)
    runs: Counter[int] = field(default_factory=Counter)
    executor: Executor = Processes()

    def manifest(self, stage: str) -> Manifest:
        file = self.config.out / "work" / f"{stage}.jsonl"
        rows = Manifest(file, sync=stage in PAID)
        if rows.damaged:
            lines = f"{rows.damaged} damaged line{'s' * (rows.damaged > 1)}"
            print(printable(f"note: {file} has {lines}: made again"), file=sys.stderr)
        return rows

    def bar(self, total: int, unit: str, what: str, done: int = 0):
        return progress_bar(total, unit, what, done=done, shown=self.progress)

    def name(self, file: Path) -> str:
        return path_text(file.relative_to(self.config.folder))

    def drop(self, stage: str, file: str, reason: Reason, **about: Any) -> None:
        self.rejects.append(reject(stage, file, reason, **about))
