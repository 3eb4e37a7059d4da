"""The log of a run: metrics.jsonl, TensorBoard if asked for, lines with the time left, a loss plot.

metrics.jsonl has one record per `log_every` steps, with the averages since the last one. A run that
resumes first drops the records after its checkpoint, so the file looks like that of an
uninterrupted run.
"""

import itertools
import json
import math
import os
import sys
from pathlib import Path

from tqdm import tqdm

from causalcine_jax.errors import UsageError, disk_faults
from causalcine_jax.render.chart import new_axes, save_figure
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.progress import Pace, progress_bar

FILE = "metrics.jsonl"


class MetricLog:
    """Appends records to OUT/metrics.jsonl, and shows progress on stderr."""

    def __init__(self, out: Path, steps: int, start: int, *, tensorboard: bool = False):
        self.path = out / FILE
        drop_after(self.path, start)
        self._writer = _tensorboard_writer(out) if tensorboard else None
        self._steps = steps
        self._lines = not sys.stderr.isatty()  # a log file: a line per record instead of a bar
        self._pace = Pace(steps, start)
        self._bar = progress_bar(steps, "step", done=start, shown=False)  # until `begin`

    def begin(self, step: int) -> None:
        """From `step` on, the time left is told: the loop has compiled."""
        self._pace = Pace(self._steps, step)
        self._bar = progress_bar(self._steps, "step", "train", done=step, shown=not self._lines)

    def advance(self) -> None:
        self._bar.update()

    def write(self, record: dict[str, float]) -> None:
        """Appends one record. NaN and infinity are written as null."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        fault = f"cannot write {self.path}"
        with disk_faults(fault), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        if self._writer:
            for name, value in plain.items():
                if name != "step" and value is not None:
                    self._writer.add_scalar(name, value, record["step"])
        if self._lines:
            step = int(record["step"])
            values = (
                f"{name} {value:.4g}" for name, value in record.items() if isinstance(value, float)
            )
            parts = (f"step {step}/{self._steps}", self._pace.left(step), *values)
            self.say("  ".join(filter(None, parts)))
        else:
            self._bar.set_postfix(
                {
                    name: f"{value:.4g}"
                    for name, value in record.items()
                    if _is_loss(name) or name == "step_s"
                }
            )

    def say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()
        if self._writer:
            self._writer.close()


class NoLog:
    """A `MetricLog` that does nothing, for processes other than the first."""

    def begin(self, step: int) -> None: ...

    def advance(self) -> None: ...

    def write(self, record: dict[str, float]) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


def read_records(path: Path) -> list[dict]:
    """All complete records; a line that was cut off by a crash is left out."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records


def drop_after(path: Path, step: int) -> None:
    """Removes the records of steps after `step`, and a line that was cut off by a crash."""
    if path.exists():
        kept = [record for record in read_records(path) if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def draw_loss_curve(out: Path) -> None:
    """OUT/loss.png from OUT/metrics.jsonl: each update's loss, and by noise level if logged."""
    records = read_records(out / FILE)
    losses = sorted({name for record in records for name in record if _is_loss(name)})
    if not any(record.get(name) is not None for record in records for name in losses):
        return
    figure, (axes,) = new_axes(1)
    for name in sorted({name for record in records for name in record if name.startswith("mse_t")}):
        axes.plot(
            *_points(records, name),
            lw=0.8,
            alpha=0.6,
            label=name.replace("mse_t", "t ").replace("_", " to "),
        )
    colours = ("black", "tab:purple", "tab:brown", "tab:pink")  # not those of noise levels
    for name, colour in zip(losses, itertools.cycle(colours)):
        axes.plot(*_points(records, name), lw=1.4, label=name.replace("_", " "), color=colour)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.25, which="both")
    figure.legend(frameon=False, loc="outside right upper")
    save_figure(figure, out / "loss.png")


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("_loss")


def _points(records: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the records that have `name`."""
    told = [record for record in records if record.get(name) is not None]
    return [record["step"] for record in told], [record[name] for record in told]


def _tensorboard_writer(out: Path):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError(
            "tensorboard=True needs tensorboardX: pip install 'causalcine-jax[tensorboard]'"
        ) from None
    os.makedirs(out / "tensorboard", exist_ok=True)
    return SummaryWriter(str(out / "tensorboard"))
