"""What training carries from step to step, and what a stage of training is made of.

A stage trains one or several networks by one or several updates. Teacher forcing has one update;
distillation has one of the student and one of its critic, which runs more often. In each step,
every update that is due runs, in order, on the same batch.

PRNG keys are not carried: the key of a step is fold_in(key(seed), step). Metrics since the last
record are carried, so that an interrupted run writes the same records as one that was not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from causalcine_jax.training.optim import OptimConfig, make_optimizer

Nets = dict[str, Any]
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
Loss = Callable[[Nets, Nets, Any, Array], tuple[Float[Array, ""], Metrics]]
Limit = tuple[float, str]  # the largest sound mean of a metric, and what to do about a larger one


def weighted(values: dict[str, Array]) -> Metrics:
    """Metrics of one value each, all of weight one."""
    return {name: (value, jnp.ones(())) for name, value in values.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MetricSums:
    """Sums over the steps since the last record.

    sums      metric -> (weighted sum, sum of weights) over the steps that were not skipped
    skipped   steps whose update was skipped
    longest   most skipped steps in a row, up to any step of this window; the row may have begun
              before the window
    until     last step of that row
    """

    sums: Metrics
    skipped: Int[Array, ""]
    longest: Int[Array, ""]
    until: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All networks in training; for each update its optimizer, its skipped steps and its window.

    step      finished steps
    ema       averages of the networks that are exported
    in_a_row  consecutive steps skipped up to now
    skipped   all skipped steps
    """

    step: Int[Array, ""]
    params: Nets
    ema: Nets
    opt_state: dict[str, optax.OptState]
    in_a_row: dict[str, Int[Array, ""]]
    skipped: dict[str, Int[Array, ""]]
    window: dict[str, MetricSums]


@dataclass(frozen=True)
class Update:
    """One gradient step, jitted by itself.

    loss    (trained, fixed, batch, key) -> (loss, metrics); a metric is (weighted sum, weight).
            `trained` holds the networks `nets`. `fixed` holds all others of the stage: those that
            are never trained, and those that other updates train
    nets    networks that it trains
    optim   its optimizer
    name    "" for the only update of a stage. Otherwise it precedes loss, learning rate and
            gradient norms: critic_loss, critic_lr, or critic_head_grad_norm for one of several
            networks. The loss names all other metrics, and no two updates may share a name
    every   it runs at steps 0, every, 2 every, ..., from `start` on
    rates   network -> its learning rate over that of `optim`; 1 if it is not named
    """

    loss: Loss
    nets: tuple[str, ...]
    optim: OptimConfig
    name: str = ""
    every: int = 1
    rates: dict[str, float] = field(default_factory=dict)
    start: int = 0

    def titled(self, metric: str) -> str:
        return f"{self.name}_{metric}" if self.name else metric

    def due(self, step: int) -> bool:
        """Whether it runs in a step, counted from 0."""
        return step >= self.start and step % self.every == 0


@dataclass(frozen=True)
class StageNets:
    """The networks of a stage and what trains them.

    trained   name -> network, or a function of a key that makes one (under jit, so that its arrays
              are sharded from the start)
    fixed     networks that losses need and that are not trained
    updates   in the order in which they run; the last one runs at every step, and ends it
    exported  trained networks whose average is kept and exported; all of them if empty
    limits    metric -> its limit; the run stops if the mean over a record is larger
    """

    trained: dict[str, Any]
    fixed: Nets
    updates: tuple[Update, ...]
    exported: tuple[str, ...] = ()
    limits: dict[str, Limit] = field(default_factory=dict)

    def __post_init__(self):
        names = [update.name for update in self.updates]
        if self.updates[-1].every != 1 or len(set(names)) != len(names):
            raise ValueError(
                f"updates {names} must have names of their own, and the last of them must run at "
                "every step"
            )

    def parts(self, update: Update, params: Nets, fixed: Nets) -> tuple[Nets, Nets]:
        """The two dicts of networks that the loss of `update` is given."""
        trained = {name: params[name] for name in update.nets}
        others = {name: net for name, net in params.items() if name not in trained}
        return trained, {**fixed, **others}


@dataclass(frozen=True, kw_only=True)
class Stage(StageNets):
    """A stage of training, which the loop runs: with its data.

    batches   an iterator of this process's batches (numpy), with a state that orbax saves (grain)
    export    (networks, folder, facts about the run) -> writes a model folder
    sample    (model folder, out folder, step) -> writes a film by that model
    bad       number of records skipped as corrupt so far
    notes     lines for the log
    held_out  this process's part of batches that are never trained on (held_out.py)
    of_each_size  () -> a batch of every size of films, where `batches` has several sizes
    """

    batches: "Batches"
    export: Callable[[Nets, Path, dict], None]
    sample: Callable[[Path, Path, int], None] | None = None
    bad: Callable[[], int] = lambda: 0
    notes: tuple[str, ...] = ()
    held_out: tuple[Any, ...] = ()
    of_each_size: Callable[[], Sequence[Any]] = tuple


@runtime_checkable
class Batches(Protocol):
    """The part of grain's DatasetIterator that training uses."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def new_state(stage: StageNets, nets: Nets, metric_names: dict[str, list[str]]) -> TrainState:
    """The state before the first step; `metric_names` are those of each update. Call it in jit."""
    zero = lambda: jnp.zeros((), jnp.int32)
    by_update = lambda make: {update.name: make(update) for update in stage.updates}
    sums = lambda names: {name: (jnp.zeros(()), jnp.zeros(())) for name in names}
    return TrainState(
        step=zero(),
        params=nets,
        # A copy: a donated state must not hold one buffer twice.
        ema={name: jax.tree.map(jnp.copy, nets[name]) for name in stage.exported or nets},
        opt_state=by_update(
            lambda update: make_optimizer(update.optim).init(stage.parts(update, nets, {})[0])
        ),
        in_a_row=by_update(lambda update: zero()),
        skipped=by_update(lambda update: zero()),
        window=by_update(
            lambda update: MetricSums(sums(metric_names[update.name]), zero(), zero(), zero())
        ),
    )
