"""Training: the same loop for every stage.

    config -> stage (networks, data, losses) -> state, new or from OUT/checkpoints -> steps
           -> OUT/model

OUT holds config.json, metrics.jsonl, loss.png, checkpoints/, model/ and samples/, and
fixed_weights.json if some networks are not trained. A run that finds checkpoints in OUT continues
from the newest; its results are bitwise those of an uninterrupted run. SIGTERM and Ctrl-C save
after the step in progress.

The host waits for a step only to write a record, but stays at most two steps ahead of the devices;
with several processes it waits for every slow one (SLOW_STEP).

With several processes (parallel/processes.py) each runs this loop. OUT must be storage that all
share: each process saves its devices' part of a checkpoint, and the first writes everything else.
When one process is asked to stop, all stop after the same step: the one in progress where steps are
slow (SLOW_STEP), else a few steps later.
"""

import contextlib
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path

import jax

from causalcine_jax.errors import one_line
from causalcine_jax.parallel.gathering import any_process, several
from causalcine_jax.parallel.mesh import check_batch, make_mesh
from causalcine_jax.parallel.processes import by_first, check_same, check_shared, is_first
from causalcine_jax.parallel.sharding import put_batch, state_shardings
from causalcine_jax.training.checkpoints import Checkpoints
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.due import Due, due_at, film_folder, undone
from causalcine_jax.training.first_state import first_state
from causalcine_jax.training.fixed_weights import FILE as SAMPLES
from causalcine_jax.training.fixed_weights import check_fixed, fixed_samples
from causalcine_jax.training.held_out import HeldOut
from causalcine_jax.training.metrics import FILE as METRICS
from causalcine_jax.training.metrics import MetricLog, NoLog, draw_loss_curve
from causalcine_jax.training.record import StepTimer, check_record, record_of
from causalcine_jax.training.same_run import FILE, check_same_run, newest_checkpoint, save_config
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.state import Nets, Stage, TrainState
from causalcine_jax.training.step import make_update
from causalcine_jax.training.step_memory import CheckedProgram
from causalcine_jax.training.stopping import StopRequest
from causalcine_jax.utils.arrays import tree_bytes
from causalcine_jax.utils.output import check_disk, check_renames, check_utf8, one_writer

FILES = (FILE, SAMPLES, METRICS, "loss.png")
FLAG = "--config.out"
STEPS_AHEAD = 2
# Seconds. With several processes the host waits for every step that takes longer, so that a signal
# ends the run after the step in progress; a host that waits costs such steps nothing.
SLOW_STEP = 5.0


def train(config: TrainConfig, stage: Stage | None = None, *, force: bool = False) -> TrainState:
    """Trains as `config` says, from the newest checkpoint in config.out if there is one.

    Args:
      stage: in place of the stage that config.stage names (for tests).
      force: continue a run whose config was another.

    Returns:
      The last state; after SIGTERM or Ctrl-C, the state that was saved.

    Raises:
      UsageError: the config cannot run here, memory has no room for a step, config.out holds
        another run or cannot be had (`one_writer`), or the processes were not started alike.
      DataError: data, disk or checkpoints fail, a loss is not finite in max_nan_steps steps in a
        row, or a metric is beyond the stage's limit.
    """
    out = Path(config.out)
    check_utf8(out.absolute())
    with StopRequest() as stop, contextlib.ExitStack() as held:
        stop.immediate = not several()  # other processes would wait for this one
        check_same(
            {
                **asdict(config),
                "--force": force,
                "devices": jax.local_device_count(),
                "jax": jax.__version__,
            }
        )
        by_first(lambda: held.enter_context(one_writer(out, FILES, flag=FLAG)))
        if config.matmul_precision:
            held.enter_context(jax.default_matmul_precision(config.matmul_precision))
        changed = by_first(lambda: check_same_run(out, config, force=force)) or []
        mesh = make_mesh(config.seq)
        for optim in config.optims:
            check_batch(mesh, config.batch, optim.accumulation)
        stage = stage or make_stage(config)
        # Where steps were trained, their config stays at first: a changed one follows later.
        kept = lambda: newest_checkpoint(out) is not None and (out / FILE).is_file()
        samples = fixed_samples(config, stage)
        by_first(lambda: check_fixed(out, config, samples, resumed=kept()))
        by_first(lambda: None if kept() else save_config(out, config))
        check_shared(out, "out")
        run = Run(config, stage, out, mesh, stop)
        del stage  # so that the loaded networks are freed once the run has copies of its own
        try:
            for line in (*run.stage.notes, *changed):
                run.log.say(line)
            return run.run()
        finally:
            run.close()


class Run:
    """One run in progress."""

    def __init__(self, config: TrainConfig, stage: Stage, out: Path, mesh, stop: StopRequest):
        self.config, self.stage, self.out, self.mesh, self.stop = config, stage, out, mesh, stop
        self.checkpoints = Checkpoints(out / "checkpoints", config.checkpoint.keep)
        self.start = self.checkpoints.latest or 0
        check_same({"the newest checkpoint": self.start})
        log = lambda: MetricLog(out, config.steps, self.start, tensorboard=config.tensorboard)
        self.log = by_first(log) or NoLog()
        self.clock = StepTimer()
        self.measure_held_out = (
            HeldOut(stage, config, mesh, self.log.say)
            if config.held_out.every and stage.held_out
            else None
        )

    def run(self) -> TrainState:
        config = self.config
        state, shardings = first_state(self.stage, config.seed, self.mesh, self.checkpoints)
        if self.start:
            self.log.say(f"resumed at step {self.start}")
        fixed = jax.device_put(self.stage.fixed, state_shardings(self.mesh, self.stage.fixed))
        # Drop the loaded networks: the state has copies of its own, and `fixed` is placed.
        self.stage = stage = replace(self.stage, trained={}, fixed={})
        jitted = lambda update: jax.jit(
            make_update(stage, update, config), donate_argnums=0, out_shardings=shardings
        )
        checked = lambda update: CheckedProgram(
            jitted(update), f"a step of {update.name or config.stage}", config, self.log.say
        )
        updates = [(update, checked(update)) for update in stage.updates]
        self.log.say(
            f"{_count(state.params):,} parameters, {jax.device_count()} "
            f"{jax.devices()[0].device_kind}, out {self.out}"
        )
        by_first(lambda: check_disk(self._bytes_to_come(state), self.out, flag=FLAG))
        by_first(lambda: check_renames(self.out))
        self.stop.immediate = False
        if self.start:  # a kill may have come after its checkpoint and before the rest
            due = due_at(config, self.start)
            due = undone(self.out, self.start, due, films=stage.sample is not None)
            self._make(due, self.start, state, fixed)
        self.clock.lap()
        in_flight: deque = deque()
        ahead, begun = STEPS_AHEAD, 0.0
        for number in range(self.start + 1, config.steps + 1):
            with self.clock.waiting():
                batch = put_batch(self.mesh, next(stage.batches))
            if number == self.start + 2:
                begun = time.monotonic()
            with jax.set_mesh(self.mesh):
                if number == self.start + 1:  # also what runs later: it must not fail mid-run
                    for each in (batch, *stage.of_each_size()):
                        placed = each if each is batch else put_batch(self.mesh, each)
                        for _, apply in updates:
                            apply.compile(state, fixed, placed)
                    if self.measure_held_out:
                        self.measure_held_out.compile(state, fixed)
                    # A changed config that cannot run must not replace that of the trained steps.
                    by_first(lambda: save_config(self.out, config))
                for update, apply in updates:
                    if update.due(number - 1):
                        state = apply(state, fixed, batch)
            self.clock.step()
            stop_now = self.stop.asked and not several()
            if ahead:
                # The next step takes the state's arrays, so what is waited for is a copy. All
                # processes read the flag `ahead` steps later, so they stop after the same step.
                in_flight.append((jax.numpy.copy(state.step), any_process(self.stop.asked)))
                if len(in_flight) > ahead:
                    finished, stop_agreed = in_flight.popleft()
                    finished.block_until_ready()
                    stop_now = stop_now or bool(stop_agreed)
            else:
                state.step.block_until_ready()
                stop_now = bool(any_process(self.stop.asked))
            if number == self.start + 2 and several():  # the first without compilation
                state.step.block_until_ready()
                ahead = 0 if any_process(time.monotonic() - begun > SLOW_STEP) else STEPS_AHEAD
            if number == self.start + 1:
                jax.block_until_ready(state)
                self.log.say(f"first step {self.clock.lap()['step_s']:.1f} s, compilation included")
                self.log.begin(number)
            else:
                self.log.advance()
            if number % config.log_every == 0 or number == config.steps:
                self._record(number, state)
            if number % config.checkpoint.every == 0 or number == config.steps or stop_now:
                self.checkpoints.save(number, state, stage.batches)
            if stop_now:
                self.checkpoints.wait()
            self._make(due_at(config, number), number, state, fixed)
            if stop_now and number < config.steps:
                self.log.say(
                    f"stopped and saved at step {number}; the same command goes on from there"
                )
                return state
        self.checkpoints.wait()
        self._export(config.steps, state, sample=config.sample.at_end)
        return state

    def _bytes_to_come(self, state: TrainState) -> int:
        """Bytes of the checkpoints that will be beside each other, less those already there.

        One is written before an older one is removed.
        """
        each = self.config.checkpoint
        steps, every = self.config.steps, each.every
        saves = steps // every - self.start // every + bool(steps % every)
        return min(saves, max(1, each.keep + 1 - self.checkpoints.count)) * tree_bytes(state)

    def close(self) -> None:
        self.log.close()
        self.checkpoints.close()

    def _record(self, number: int, state: TrainState) -> None:
        config, stage = self.config, self.stage
        record = record_of(config, stage, state, number, self.clock)
        self.log.write(record.values)
        for line in check_record(config, stage, record, self.checkpoints.latest):
            self.log.say(line)

    def _make(self, due: Due, number: int, state: TrainState, fixed: Nets) -> None:
        if due.held_out and self.measure_held_out:
            self.log.write({"step": number, **self.measure_held_out(state, fixed)})
            self.clock.lap()
        if due.model:
            self._export(number, state, sample=due.film)
            self.clock.lap()

    def _export(self, number: int, state: TrainState, *, sample: bool) -> None:
        """Writes the model, the loss as a picture and, if asked for, a film.

        Every process hands over its part of the model; the first does the rest.
        """
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
            try:
                self.stage.sample(folder, film_folder(self.out, number), number)
            except Exception as error:  # no fault of a film is worth the steps since a checkpoint
                why = f"{type(error).__name__}: {one_line(error)}"
                self.log.say(
                    f"note: no sample film of step {number} ({why}); the model is complete"
                )
        draw_loss_curve(self.out)


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
