"""What training carries from step to step, and what a stage of training is made of.

A stage trains one or several networks by one or several updates: teacher forcing by one, distillation by one of the student and one
of its critic, which runs more often. A step of the run is one turn: every update that is due, in order, on the same batch.

PRNG keys are not carried: a step's key is fold_in(key(seed), step). What the log needs of the steps since its last record is
carried, so that a run that was interrupted writes the same records as one that was not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from causalcine_jax.training.optim import OptimConfig, make_optimizer

Nets = dict[str, Any]
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
Loss = Callable[[Nets, Nets, Any, Array], tuple[Float[Array, ""], Metrics]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """Sums over the steps since the last record.

    sums      name -> (weighted sum, sum of weights) of every metric, over the steps that were not skipped
    skipped   steps whose update was skipped
    longest   most skipped steps in a row, counted up to any step of this window; the last of them was step `until`
    """

    sums: Metrics
    skipped: Int[Array, ""]
    longest: Int[Array, ""]
    until: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All networks in training, and by the name of each update: its optimizer, its skipped steps, its window.

    step      finished steps
    ema       of the networks that are exported
    in_a_row  steps skipped up to now; skipped: all of them
    """

    step: Int[Array, ""]
    params: Nets
    ema: Nets
    opt_state: dict[str, optax.OptState]
    in_a_row: dict[str, Int[Array, ""]]
    skipped: dict[str, Int[Array, ""]]
    window: dict[str, Window]


@dataclass(frozen=True)
class Update:
    """One gradient step, jitted by itself.

    loss    (trained, fixed, batch, key) -> (loss, metrics), a metric being (weighted sum, weight). `trained` are the networks `nets`, `fixed`
            all others of the stage: those that are never trained, and those that other updates train
    optim   its optimizer
    name    "" for the only update of a stage. Otherwise it precedes the update's own metrics: critic_loss, critic_grad_norm, critic_lr,
            and critic_head_grad_norm for one of its several networks
    every   it runs at steps 0, every, 2 every, ...
    rates   of some of its networks: their learning rate over that of `optim`
    """

    loss: Loss
    nets: tuple[str, ...]
    optim: OptimConfig
    name: str = ""
    every: int = 1
    rates: dict[str, float] = field(default_factory=dict)

    def titled(self, metric: str) -> str:
        return f"{self.name}_{metric}" if self.name else metric

    def due(self, step: int) -> bool:
        """Whether it runs in a step, counted from 0."""
        return step % self.every == 0


@dataclass(frozen=True)
class Stage:
    """A stage of training: what is trained, on what, by which updates, and what it leaves.

    trained   name -> network, or a function of a key that makes one (under jit, so that it is born sharded)
    fixed     networks that losses need but that are not trained
    updates   in the order in which they run; the last one ends a step, so it runs at each
    batches   an iterator of this process's batches (numpy), with a state that orbax can save (grain)
    export    (networks, folder, facts about the run) -> writes a model folder
    exported  the trained networks that `export` is given, averaged; all of them if empty
    sample    (model folder, out folder, step) -> films made by that model, or None if the stage makes none
    bad       how many records were skipped as corrupt so far
    limits    metric -> (the largest mean over a record that is sound, what to do about a larger one)
    held_out  this process's part of batches that are never trained on, of which the first update's metrics are logged (held_out.py)
    """

    trained: dict[str, Any]
    fixed: Nets
    updates: tuple[Update, ...]
    batches: "Batches"
    export: Callable[[Nets, Path, dict], None]
    exported: tuple[str, ...] = ()
    sample: Callable[[Path, Path, int], None] | None = None
    bad: Callable[[], int] = lambda: 0
    notes: tuple[str, ...] = ()
    limits: dict[str, tuple[float, str]] = field(default_factory=dict)
    held_out: tuple[Any, ...] = ()

    def __post_init__(self):
        names = [update.name for update in self.updates]
        if self.updates[-1].every != 1 or len(set(names)) != len(names):
            raise ValueError(
                f"updates {names} must have names of their own, and the last of them must run at every step"
            )

    def parts(self, update: Update, params: Nets, fixed: Nets) -> tuple[Nets, Nets]:
        """The two dicts of networks that the loss of `update` is given."""
        trained = {name: params[name] for name in update.nets}
        return trained, {
            **fixed,
            **{name: net for name, net in params.items() if name not in trained},
        }


class Batches(Protocol):
    """What is needed of grain's DatasetIterator."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def new_state(stage: Stage, nets: Nets, metric_names: dict[str, list[str]]) -> TrainState:
    """The state before the first step; `metric_names` are those of each update. Called under jit."""
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
            lambda update: Window(sums(metric_names[update.name]), zero(), zero(), zero())
        ),
    )
