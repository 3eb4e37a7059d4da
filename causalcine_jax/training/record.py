"""One record of metrics.jsonl: means since the last record, and the faults that they show."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from causalcine_jax.errors import DataError
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.optim import learning_rate
from causalcine_jax.training.state import MetricSums, Stage, TrainState, Update


@dataclass(frozen=True)
class MetricRecord:
    """The metrics of the steps since the last record, up to `step`.

    values    name -> value, as it is logged
    windows   of the updates that ran, by name
    since     number of these steps
    """

    step: int
    values: dict[str, float]
    windows: dict[str, MetricSums]
    since: int


def record_of(
    config: TrainConfig, stage: Stage, state: TrainState, step: int, clock: "StepTimer"
) -> MetricRecord:
    """The record after `step`. The host waits for the numbers."""
    windows, skipped = jax.device_get((state.window, state.skipped))
    timing = clock.lap()
    since = (step - 1) % config.log_every + 1
    ran = [
        update
        for update in stage.updates
        if any(update.due(number) for number in range(step - since, step))
    ]
    losses: dict[str, float] = {}
    means: dict[str, float] = {}
    rates: dict[str, float] = {}
    for update in ran:
        mean = {
            name: float(total / weight) if weight else float("nan")
            for name, (total, weight) in windows[update.name].sums.items()
        }
        losses[update.titled("loss")] = mean.pop(update.titled("loss"))
        # If no film had a time in a part of the schedule, that part has no error.
        means |= {
            name: value
            for name, value in mean.items()
            if not (name.startswith("mse_") and np.isnan(value))
        }
        rates[update.titled("lr")] = float(learning_rate(update.optim, config.steps)(step - 1))
    values = {
        "step": step,
        **losses,
        **means,
        **rates,
        "skipped": sum(int(count) for count in skipped.values()),
        "bad_records": stage.bad(),
        **({"films_per_s": config.batch / timing["step_s"]} if timing else {}),
        **timing,
    }
    return MetricRecord(step, values, {update.name: windows[update.name] for update in ran}, since)


def check_record(
    config: TrainConfig, stage: Stage, record: MetricRecord, newest: int | None
) -> Iterator[str]:
    """Yields lines to print about skipped updates.

    `DataError` if too many updates in a row were skipped, or a metric is beyond its limit.
    `newest` is the step of the newest checkpoint.
    """
    saved = (
        "there is no checkpoint yet"
        if newest is None
        else f"the newest checkpoint is of step {newest}"
    )
    for update in (update for update in stage.updates if update.name in record.windows):
        window = record.windows[update.name]
        which = f" of {update.name}" if update.name else ""
        if window.longest >= config.max_nan_steps:
            raise DataError(
                f"loss or gradient{which} was not finite in {window.longest} steps in a row, from "
                f"step {_first_skipped(update, window)} on; these updates were skipped. Lower the "
                f"learning rate, or look at the data; {saved}"
            )
        if window.skipped:
            yield (
                f"note: {int(window.skipped)} updates{which} of the last {record.since} steps were "
                "skipped, their loss or gradient was not finite"
            )
    for name, (limit, advice) in stage.limits.items():
        if (value := record.values.get(name, 0.0)) > limit:
            raise DataError(
                f"{name} was {value:.4g} in the steps up to {record.step}, more than {limit:g}: "
                f"{advice}; {saved}"
            )


def _first_skipped(update: Update, window: MetricSums) -> int:
    return int(window.until - (window.longest - 1) * update.every)


class StepTimer:
    """Seconds per step since the last lap, and how many of them the loop waited for data."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def step(self) -> None:
        self._steps += 1

    def lap(self) -> dict[str, float]:
        """The times per step of this lap, {} for a lap without a step; begins the next lap."""
        steps, seconds, waited = self._steps, time.perf_counter() - self._began, self._waited
        self._start()
        return {"step_s": seconds / steps, "data_wait_s": waited / steps} if steps else {}
