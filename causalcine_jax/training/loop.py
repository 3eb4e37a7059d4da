"""Training: the same loop for every stage.

    config -> stage (networks, data, loss) -> state, new or from OUT/checkpoints -> steps -> OUT/model

OUT holds config.json, metrics.jsonl, loss.png, checkpoints/, model/ and samples/. A run that finds checkpoints in OUT goes on from the
newest, to the bit as if it had never stopped. SIGTERM and Ctrl-C save after the step in progress.

The host never waits for a step but to write a record, except that it stays at most two steps ahead of the devices.

With several processes (parallel/processes.py) each runs this loop. OUT must be storage that all share: each saves its devices' part of a
checkpoint, and the first writes all else. When one of them is asked to stop, all stop after the same step, a little later.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np

from causalcine_jax.errors import DataError
from causalcine_jax.models.nn import Module
from causalcine_jax.parallel.mesh import check_batch, make_mesh, own_part
from causalcine_jax.parallel.processes import (
    any_process,
    by_first,
    check_all,
    check_same,
    is_first,
    several,
)
from causalcine_jax.parallel.sharding import put_batch, state_shardings
from causalcine_jax.training.checkpoints import Checkpoints
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.held_out import held_out_measure
from causalcine_jax.training.metrics import MetricLog, NoLog, draw_loss_curve
from causalcine_jax.training.optim import learning_rate
from causalcine_jax.training.same_run import FILE, check_same_run, save_config
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.state import Stage, TrainState, Update, new_state
from causalcine_jax.training.step import INIT, make_update, metric_names
from causalcine_jax.training.stopping import StopRequest

STEPS_AHEAD = 2


def train(config: TrainConfig, stage: Stage | None = None, *, force: bool = False) -> TrainState:
    """Trains as `config` says, from the newest checkpoint in config.out if there is one; returns the last state.

    `stage` replaces what config.stage names (tests). `force` goes on with a run under a changed config. Ended early by SIGTERM, it returns
    what it saved.

    Raises:
      UsageError: the config cannot run here, config.out holds another run, or the processes were not started alike.
      DataError: data, disk or checkpoints fail, a loss is not finite in max_nan_steps steps in a row, or a metric is beyond the stage's limit.
    """
    out = Path(config.out)
    with StopRequest() as stop:
        stop.at_once = not several()  # the others could not know
        check_same(
            {
                **asdict(config),
                "--force": force,
                "devices": jax.local_device_count(),
                "jax": jax.__version__,
            }
        )
        changed = by_first(lambda: check_same_run(out, config, force=force)) or []
        mesh = make_mesh(config.seq)
        for optim in (config.optim, config.critic_optim):
            check_batch(mesh, config.batch, optim.accumulation)
        stage = stage or make_stage(config)
        by_first(lambda: save_config(out, config))
        check_all(
            ""
            if (out / FILE).is_file()
            else f"{out / FILE}, as process 0 wrote it, is not there: choose an out that all processes share"
        )
        run = Run(config, stage, out, mesh, stop)
        del stage  # the run lets go of what was loaded, once it has copies of its own
        try:
            for line in (*run.stage.notes, *changed):
                run.log.say(line)
            return run.run()
        finally:
            run.close()


class Run:
    """One run in progress: everything that the loop touches."""

    def __init__(self, config: TrainConfig, stage: Stage, out: Path, mesh, stop: StopRequest):
        self.config, self.stage, self.out, self.mesh, self.stop = config, stage, out, mesh, stop
        self.checkpoints = Checkpoints(out / "checkpoints", config.checkpoint.keep)
        self.start = self.checkpoints.latest or 0
        check_same({"the newest checkpoint": self.start})
        self.log = (
            MetricLog(out, config.steps, self.start, tensorboard=config.tensorboard)
            if is_first()
            else NoLog()
        )
        self.clock = Clock()
        self.held_out = (
            held_out_measure(stage, config, mesh)
            if config.held_out.every and stage.held_out
            else None
        )

    def run(self) -> TrainState:
        config = self.config
        state, shardings = self._first_state()
        fixed = jax.device_put(self.stage.fixed, state_shardings(self.mesh, self.stage.fixed))
        # Nothing that was loaded is kept twice: the state has copies of its own, and `fixed` is where it is used.
        self.stage = stage = replace(self.stage, trained={}, fixed={})
        jitted = lambda update: jax.jit(
            make_update(stage, update, config), donate_argnums=0, out_shardings=shardings
        )
        updates = [(update, jitted(update)) for update in stage.updates]
        self.log.say(
            f"{_count(state.params):,} parameters, {jax.device_count()} {jax.devices()[0].device_kind}, out {self.out}"
        )
        self.stop.at_once = False
        self.clock.lap()
        in_flight: deque = deque()
        for number in range(self.start + 1, config.steps + 1):
            with self.clock.waiting():
                batch = put_batch(self.mesh, next(stage.batches))
            with jax.set_mesh(self.mesh):
                for update, run in updates:
                    if update.due(number - 1):
                        state = run(state, fixed, batch)
            self.clock.step()
            asked = self.stop.asked and not several()
            in_flight.append((jax.numpy.copy(state.step), any_process(self.stop.asked)))
            if len(in_flight) > STEPS_AHEAD:
                finished, told = in_flight.popleft()
                finished.block_until_ready()
                asked = asked or bool(told)
            if number == self.start + 1:
                jax.block_until_ready(state)
                self.log.say(f"first step {self.clock.lap()['step_s']:.1f} s, compilation included")
            self.log.advance()
            if number % config.log_every == 0 or number == config.steps:
                self._record(number, state)
            if number % config.checkpoint.every == 0 or number == config.steps or asked:
                self.checkpoints.save(number, state, stage.batches)
            if asked and number < config.steps:
                self.checkpoints.wait()
                self.log.say(
                    f"stopped and saved at step {number}; the same command goes on from there"
                )
                return state
            if self.held_out and (number % config.held_out.every == 0 or number == config.steps):
                self.log.write({"step": number, **self.held_out(state, fixed)})
                self.clock.lap()
            self._periodic(number, state)
        self.checkpoints.wait()
        self._export(config.steps, state, sample=config.sample.at_end)
        return state

    def close(self) -> None:
        self.log.close()
        self.checkpoints.close()

    def _first_state(self) -> tuple[TrainState, object]:
        """The newest checkpoint, or a new state that is born with its shardings."""
        config, stage = self.config, self.stage
        loaded = {name: net for name, net in stage.trained.items() if isinstance(net, Module)}

        def nets_of(loaded):
            keys = jax.random.split(
                jax.random.fold_in(jax.random.key(config.seed), INIT), len(stage.trained)
            )
            made = zip(stage.trained.items(), keys, strict=True)
            return {
                name: loaded[name] if name in loaded else make(key) for (name, make), key in made
            }

        with jax.set_mesh(self.mesh):  # the first to see what the mesh does not divide
            metrics = metric_names(
                stage, jax.eval_shape(nets_of, loaded), stage.fixed, self._batch_shapes()
            )

        def create(loaded) -> TrainState:
            return new_state(stage, nets_of(loaded), metrics)

        shapes = jax.eval_shape(create, loaded)
        shardings = state_shardings(self.mesh, shapes)
        if self.start == 0:
            return jax.jit(create, out_shardings=shardings)(loaded), shardings
        like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        state = self.checkpoints.restore(like, stage.batches)
        self.log.say(f"resumed at step {self.start}")
        return state, shardings

    def _batch_shapes(self):
        """Shapes of a global batch. Looks at one without taking it."""
        position = self.stage.batches.get_state()
        batch = next(self.stage.batches)
        self.stage.batches.set_state(position)
        _, parts = own_part(self.mesh)
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((a.shape[0] * parts, *a.shape[1:]), a.dtype), batch
        )

    def _record(self, number: int, state: TrainState) -> None:
        """Writes one record; the only place where the host waits for numbers."""
        windows, skipped = jax.device_get((state.window, state.skipped))
        since = (number - 1) % self.config.log_every + 1
        ran = [
            update
            for update in self.stage.updates
            if any(update.due(step) for step in range(number - since, number))
        ]
        losses, means, rates = {}, {}, {}
        for update in ran:
            mean = {
                name: float(total / weight) if weight else float("nan")
                for name, (total, weight) in windows[update.name].sums.items()
            }
            losses[update.titled("loss")] = mean.pop(update.titled("loss"))
            means |= {
                name: value
                for name, value in mean.items()
                if not (name.startswith("mse_") and np.isnan(value))
            }
            rates[update.titled("lr")] = float(
                learning_rate(update.optim, self.config.steps)(number - 1)
            )
        timing = self.clock.lap()
        speed = {"films_per_s": self.config.batch / timing["step_s"]} if timing else {}
        self.log.write(
            {
                "step": number,
                **losses,
                **means,
                **rates,
                "skipped": sum(int(count) for count in skipped.values()),
                "bad_records": self.stage.bad(),
                **speed,
                **timing,
            }
        )
        for update in ran:
            self._check_skipped(update, windows[update.name], since)
        for name, (limit, advice) in self.stage.limits.items():
            if (value := (losses | means).get(name, 0.0)) > limit:
                raise DataError(
                    f"{name} was {value:.4g} in the steps up to {number}, more than {limit:g}: {advice}; {self._newest()}"
                )

    def _check_skipped(self, update: Update, window, since: int) -> None:
        which = f" of {update.name}" if update.name else ""
        if window.longest >= self.config.max_nan_steps:
            first = window.until - (window.longest - 1) * update.every
            raise DataError(
                f"loss or gradient{which} was not finite in {window.longest} steps in a row, from step {first} on; "
                f"these updates were skipped. Lower the learning rate, or look at the data; {self._newest()}"
            )
        if window.skipped:
            self.log.say(
                f"note: {int(window.skipped)} updates{which} of the last {since} steps were skipped, their loss or gradient was not finite"
            )

    def _newest(self) -> str:
        latest = self.checkpoints.latest
        return (
            "there is no checkpoint yet"
            if latest is None
            else f"the newest checkpoint is of step {latest}"
        )

    def _periodic(self, number: int, state: TrainState) -> None:
        config = self.config
        due = lambda every: every and number % every == 0 and number < config.steps
        if due(config.checkpoint.export_every) or due(config.sample.every):
            self._export(number, state, sample=bool(due(config.sample.every)))
            self.clock.lap()

    def _export(self, number: int, state: TrainState, *, sample: bool) -> None:
        """The model, the loss as a picture and, if asked for, a film. Every process hands over its part of the model; the first does the rest."""
        folder = self.out / "model"
        facts = {
            "training": {
                "step": number,
                "config": asdict(self.config),
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
            }
        }
        self.stage.export(state.ema, folder, facts)
        if not is_first():
            return
        self.log.say(f"model of step {number}: {folder}")
        if sample and self.stage.sample:
            self.stage.sample(folder, self.out / "samples" / f"{number:06d}", number)
        draw_loss_curve(self.out)


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


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
