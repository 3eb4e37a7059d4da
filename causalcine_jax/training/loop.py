"""Training: the same loop for every stage.

    config -> stage (networks, data, loss) -> state, new or from OUT/checkpoints -> steps -> OUT/model

OUT holds config.json, metrics.jsonl, loss.png, checkpoints/, model/ and samples/. A run that finds checkpoints in OUT goes on from the
newest, to the bit as if it had never stopped. SIGTERM and Ctrl-C save after the step in progress.

The host never waits for a step but to write a record, except that it stays at most two steps ahead of the devices.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.nn import Module
from causalcine_jax.parallel.sharding import check_batch, make_mesh, put_batch, state_shardings
from causalcine_jax.training.checkpoints import Checkpoints
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.metrics import MetricLog, draw_loss_curve
from causalcine_jax.training.optim import learning_rate, make_optimizer
from causalcine_jax.training.stages import make_stage
from causalcine_jax.training.state import Stage, TrainState, new_state
from causalcine_jax.training.step import make_step, metric_names
from causalcine_jax.training.stopping import StopRequest
from causalcine_jax.whole_file import whole_file

STEPS_AHEAD = 2
INIT = 2**31 - 1  # the "step" whose key initialises the networks
# What may differ between a run and its continuation without a word; the loss curve does not depend on it.
FREE = ("out", "log_every", "tensorboard", "checkpoint", "sample", "max_nan_steps")
# What a continuation must share with its run: another value is another run.
FIXED = ("stage", "seed", "batch", "transformer", "text_encoder", "vae", "chunk_frames", "train_text_encoder", "init", "data")


def train(config: TrainConfig, stage: Stage | None = None) -> TrainState:
    """Trains as `config` says, from the newest checkpoint in config.out if there is one; returns the last state.

    `stage` replaces what config.stage names (tests). Ended early by SIGTERM, it returns what it saved.

    Raises:
      UsageError: the config cannot run here, or config.out holds another run.
      DataError: data, disk or checkpoints fail, or the loss is not finite in max_nan_steps steps in a row.
    """
    out = Path(config.out)
    with StopRequest() as stop:
        changed = check_same_run(out, config)
        mesh = make_mesh()
        check_batch(mesh, config.batch, config.optim.accumulation)
        stage = stage or make_stage(config)
        save_config(out, config)
        run = Run(config, stage, out, mesh, stop)
        try:
            for line in (*stage.notes, *changed):
                run.log.say(line)
            return run.run()
        finally:
            run.close()


class Run:
    """One run in progress: everything that the loop touches."""

    def __init__(self, config: TrainConfig, stage: Stage, out: Path, mesh, stop: StopRequest):
        self.config, self.stage, self.out, self.mesh, self.stop = config, stage, out, mesh, stop
        self.checkpoints = Checkpoints(out / "checkpoints", config.checkpoint.keep)
        self.rate = learning_rate(config.optim, config.steps)
        self.start = self.checkpoints.latest or 0
        self.log = MetricLog(out, config.steps, self.start, tensorboard=config.tensorboard)
        self.clock = Clock()

    def run(self) -> TrainState:
        config, stage = self.config, self.stage
        state, shardings = self._first_state()
        fixed = jax.device_put(stage.fixed, state_shardings(self.mesh, stage.fixed))
        step = jax.jit(make_step(stage.loss, config), donate_argnums=0, out_shardings=shardings)
        self.log.say(f"{_count(state.params):,} parameters, {jax.device_count()} {jax.devices()[0].device_kind}, out {self.out}")
        self.stop.at_once = False
        self.clock.lap()
        in_flight: deque = deque()
        for number in range(self.start + 1, config.steps + 1):
            with self.clock.waiting():
                batch = put_batch(self.mesh, next(stage.batches))
            state = step(state, fixed, batch)
            self.clock.step()
            in_flight.append(jax.numpy.copy(state.step))
            if len(in_flight) > STEPS_AHEAD:
                in_flight.popleft().block_until_ready()
            if number == self.start + 1:
                jax.block_until_ready(state)
                self.log.say(f"first step {self.clock.lap()['step_s']:.1f} s, compilation included")
            self.log.advance()
            if number % config.log_every == 0 or number == config.steps:
                self._record(number, state)
            if number % config.checkpoint.every == 0 or number == config.steps or self.stop.asked:
                self.checkpoints.save(number, state, stage.batches)
            if self.stop.asked and number < config.steps:
                self.checkpoints.wait()
                self.log.say(f"stopped and saved at step {number}; the same command goes on from there")
                return state
            self._periodic(number, state)
        self.checkpoints.wait()
        self._export(config.steps, state, sample=config.sample.at_end)
        draw_loss_curve(self.out)
        return state

    def close(self) -> None:
        self.log.close()
        self.checkpoints.close()

    def _first_state(self) -> tuple[TrainState, object]:
        """The newest checkpoint, or a new state that is born with its shardings."""
        config, stage = self.config, self.stage
        loaded = {name: net for name, net in stage.trained.items() if isinstance(net, Module)}

        def nets_of(loaded):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), INIT), len(stage.trained))
            made = zip(stage.trained.items(), keys, strict=True)
            return {name: loaded[name] if name in loaded else make(key) for (name, make), key in made}

        metrics = metric_names(stage.loss, jax.eval_shape(nets_of, loaded), stage.fixed, self._batch_shapes())

        def create(loaded) -> TrainState:
            return new_state(nets_of(loaded), make_optimizer(config.optim), metrics)

        shapes = jax.eval_shape(create, loaded)
        shardings = state_shardings(self.mesh, shapes)
        if self.start == 0:
            return jax.jit(create, out_shardings=shardings)(loaded), shardings
        like = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)
        state = self.checkpoints.restore(like, stage.batches)
        self.log.say(f"resumed at step {self.start}")
        return state, shardings

    def _batch_shapes(self):
        """Shapes of a global batch. Looks at one without taking it."""
        position = self.stage.batches.get_state()
        batch = next(self.stage.batches)
        self.stage.batches.set_state(position)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((a.shape[0] * jax.process_count(), *a.shape[1:]), a.dtype), batch)

    def _record(self, number: int, state: TrainState) -> None:
        """Writes one record; the only place where the host waits for numbers."""
        window, skipped = jax.device_get((state.window, state.skipped))
        since = (number - 1) % self.config.log_every + 1
        mean = {name: float(total / weight) if weight else float("nan") for name, (total, weight) in window.sums.items()}
        mean = {name: value for name, value in mean.items() if not (name.startswith("mse_") and np.isnan(value))}
        timing = self.clock.lap()
        speed = {"films_per_s": self.config.batch / timing["step_s"]} if timing else {}
        self.log.write(
            {
                "step": number,
                "loss": mean.pop("loss"),
                **mean,
                "lr": float(self.rate(number - 1)),
                "skipped": int(skipped),
                "bad_records": self.stage.bad(),
                **speed,
                **timing,
            }
        )
        if window.longest >= self.config.max_nan_steps:
            raise DataError(
                f"loss or gradient was not finite in {window.longest} steps in a row, from step {window.until - window.longest + 1} on; "
                f"these updates were skipped. Lower optim.lr, or look at the data; the newest checkpoint is of step {self.checkpoints.latest}"
            )
        if window.skipped:
            self.log.say(f"note: {int(window.skipped)} of the last {since} updates were skipped, their loss or gradient was not finite")

    def _periodic(self, number: int, state: TrainState) -> None:
        config = self.config
        due = lambda every: every and number % every == 0 and number < config.steps
        if due(config.checkpoint.export_every) or due(config.sample.every):
            self._export(number, state, sample=bool(due(config.sample.every)))
            draw_loss_curve(self.out)
            self.clock.lap()

    def _export(self, number: int, state: TrainState, *, sample: bool) -> None:
        nets = state.ema if self.config.optim.ema_decay else state.params
        folder = self.out / "model"
        facts = {
            "training": {"step": number, "config": asdict(self.config), "device": jax.devices()[0].device_kind, "jax": jax.__version__}
        }
        self.stage.export(nets, folder, facts)
        self.log.say(f"model of step {number}: {folder}")
        if sample and self.stage.sample:
            self.stage.sample(folder, self.out / "samples" / f"{number:06d}", number)


class Clock:
    """Seconds per step, and how many of them the loop waited for data, since the last lap."""

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
        """The lap's times per step, nothing for a lap without a step; begins the next."""
        steps, seconds, waited = self._steps, time.perf_counter() - self._began, self._waited
        self._start()
        return {"step_s": seconds / steps, "data_wait_s": waited / steps} if steps else {}


def check_same_run(out: Path, config: TrainConfig) -> list[str]:
    """What was changed since the run in `out` began, as lines to print; `UsageError` if it is another run altogether."""
    file = out / "config.json"
    if not file.is_file() or not (out / "checkpoints").is_dir():
        return []
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose another out, or delete {out}") from error
    now = json.loads(json.dumps(asdict(config)))
    changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
    fatal = [
        f"{name} was {_told(before.get(name), now[name])[0]}, is {_told(before.get(name), now[name])[1]}"
        for name in changed
        if name in FIXED
    ]
    if fatal:
        raise UsageError(f"{out} holds another run: {'; '.join(fatal)}. Choose another out, or delete it")
    return [f"changed since this run began: {name} {_told(before.get(name), now[name])[1]}" for name in changed]


def _told(before, now) -> tuple[str, str]:
    """Both values, cut down to the fields that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in now if before.get(name) != now[name]]
        return ", ".join(f"{n}={before.get(n)!r}" for n in names), ", ".join(f"{n}={now[n]!r}" for n in names)
    return repr(before), repr(now)


def save_config(out: Path, config: TrainConfig) -> None:
    with whole_file(out / "config.json") as partial:
        partial.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
