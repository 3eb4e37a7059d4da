"""What training carries from step to step, and what a stage of training is made of.

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
    """step counts finished steps; in_a_row the skipped steps up to now; skipped all of them."""

    step: Int[Array, ""]
    params: Nets
    ema: Nets
    opt_state: optax.OptState
    in_a_row: Int[Array, ""]
    skipped: Int[Array, ""]
    window: Window


@dataclass(frozen=True)
class Stage:
    """A stage of training: what is trained, on what, by which loss, and what it leaves.

    trained   name -> network, or a function of a key that makes one (under jit, so that it is born sharded)
    fixed     networks that the loss needs but that are not trained
    loss      (trained, fixed, batch, key) -> (loss, metrics); a metric is (weighted sum, weight)
    batches   an iterator of this process's batches (numpy), with a state that orbax can save (grain)
    export    (networks, folder, facts about the run) -> writes a model folder
    sample    (model folder, out folder, step) -> films made by that model, or None if the stage makes none
    bad       how many records were skipped as corrupt so far
    """

    trained: dict[str, Any]
    fixed: Nets
    loss: Loss
    batches: "Batches"
    export: Callable[[Nets, Path, dict], None]
    sample: Callable[[Path, Path, int], None] | None = None
    bad: Callable[[], int] = lambda: 0
    notes: tuple[str, ...] = field(default=())


class Batches(Protocol):
    """What is needed of grain's DatasetIterator."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def new_state(nets: Nets, optimizer: optax.GradientTransformation, metric_names: list[str]) -> TrainState:
    """The state before the first step. Called under jit."""
    zero = lambda: jnp.zeros((), jnp.int32)
    sums = {name: (jnp.zeros(()), jnp.zeros(())) for name in metric_names}
    return TrainState(
        step=zero(),
        params=nets,
        # A copy: a donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, nets),
        opt_state=optimizer.init(nets),
        in_a_row=zero(),
        skipped=zero(),
        window=Window(sums, zero(), zero(), zero()),
    )
