"""One update: gradients over micro-batches, clipping, optimizer, average.

If loss or gradient is not finite, the update changes no weights.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from causalcine_jax.models.nn import cast_weights
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.optim import learning_rate, make_optimizer
from causalcine_jax.training.state import MetricSums, Nets, StageNets, TrainState, Update, weighted

# The "step" whose key initialises the networks. Every update of a step needs keys of its own: the
# first folds in nothing, update n folds in INIT - n.
INIT = 2**31 - 1


def warmed_up_ema_decay(limit: float, step):
    """Grows from 0.1 to `limit`, so that the random first weights are forgotten."""
    return jnp.minimum(limit, (1 + step) / (10 + step))


def make_update(
    stage: StageNets, update: Update, config: TrainConfig
) -> Callable[[TrainState, Nets, object], TrainState]:
    """The function (state, fixed networks, batch) -> state of one update.

    Jit it with its state donated. It changes nothing that belongs to other updates. The stage's
    last update counts the step.
    """
    optim, number = update.optim, stage.updates.index(update)
    optimizer, rate = make_optimizer(optim), learning_rate(optim, config.steps)
    dtype = jnp.dtype(config.dtype)
    own = {name: update.titled(name) for name in ("loss", "grad_norm")}

    def clipped(net, norm):
        factor = jnp.minimum(1, optim.clip / (norm + 1e-12))
        return jax.tree.map(lambda g: g * factor, net)

    def gradients(params: Nets, fixed: Nets, batch, key):
        compute = lambda params: update.loss(
            cast_weights(params, dtype), cast_weights(fixed, dtype), batch, key
        )
        (value, metrics), grads = jax.value_and_grad(compute, has_aux=True)(params)
        return grads, metrics | weighted({own["loss"]: value})

    def run(state: TrainState, fixed: Nets, batch) -> TrainState:
        base = (
            jax.random.key(config.seed)
            if number == 0
            else jax.random.fold_in(jax.random.key(config.seed), INIT - number)
        )
        trained, others = stage.parts(update, state.params, fixed)
        grads, metrics = _accumulated(
            gradients,
            trained,
            others,
            batch,
            jax.random.fold_in(base, state.step),
            optim.accumulation,
        )
        norms = {name: optax.tree.norm(net) for name, net in grads.items()}
        norm = optax.tree.norm(norms)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics[own["loss"]][0])
        if optim.clip:  # each network by itself: a new one must not slow down the others
            grads = {name: clipped(net, norms[name]) for name, net in grads.items()}
        updates, opt_state = optimizer.update(grads, state.opt_state[update.name], trained)
        now = rate(state.step)

        def moved(name, net):
            by = now * update.rates.get(name, 1.0)
            return jax.tree.map(lambda p, u: p + by * u, net, updates[name])

        params = {name: moved(name, net) for name, net in trained.items()}
        done = (state.step - max(optim.ema_start, update.start)) // update.every
        # An average that starts late starts with trained weights, and needs no warm-up.
        decay = jnp.where(
            done < 0,
            0.0,
            optim.ema_decay if optim.ema_start else warmed_up_ema_decay(optim.ema_decay, done),
        )
        averaged = {name: state.ema[name] for name in trained if name in state.ema}
        rest = 1 - decay
        ema = {
            name: jax.tree.map(lambda e, p: decay * e + rest * p, net, params[name])
            for name, net in averaged.items()
        }
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        in_a_row = jnp.where(finite, 0, state.in_a_row[update.name] + 1)
        noted = {
            own["grad_norm"]: norm,
            **{metric: norms[name] for name, metric in _norm_names(update).items()},
        }
        metrics |= weighted(noted)
        window = _noted(state, update, metrics, finite, in_a_row, config.log_every)
        return replace(
            state,
            step=state.step + (update is stage.updates[-1]),
            params={**state.params, **keep(params, trained)},
            ema={**state.ema, **keep(ema, averaged)},
            opt_state={
                **state.opt_state,
                update.name: keep(opt_state, state.opt_state[update.name]),
            },
            in_a_row={**state.in_a_row, update.name: in_a_row},
            skipped={**state.skipped, update.name: state.skipped[update.name] + ~finite},
            window={**state.window, update.name: window},
        )

    return run


def metric_names(stage: StageNets, params: Nets, fixed: Nets, batch) -> dict[str, list[str]]:
    """The metrics of each update, its loss's and its own; nothing is computed."""

    def of(update: Update) -> list[str]:
        shapes = jax.eval_shape(
            lambda p, f, b: update.loss(p, f, b, jax.random.key(0))[1],
            *stage.parts(update, params, fixed),
            batch,
        )
        return sorted(
            {
                *shapes,
                update.titled("loss"),
                update.titled("grad_norm"),
                *_norm_names(update).values(),
            }
        )

    return {update.name: of(update) for update in stage.updates}


def _norm_names(update: Update) -> dict[str, str]:
    """Network -> metric of its gradient norm, for an update of several networks."""
    return (
        {name: update.titled(f"{name}_grad_norm") for name in update.nets}
        if len(update.nets) > 1
        else {}
    )


def _accumulated(gradients, params: Nets, fixed: Nets, batch, key, count: int):
    """Mean gradient over `count` micro-batches in turn, and the sums of their metrics."""
    if count == 1:
        return gradients(params, fixed, batch, key)
    # Film i goes to micro-batch i % count, so that every device keeps its films.
    parts = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0), batch
    )
    keys = jax.random.split(key, count)
    first = jax.eval_shape(
        lambda: gradients(params, fixed, jax.tree.map(lambda a: a[0], parts), key)
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradients(params, fixed, *part)), None

    (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
    return jax.tree.map(lambda g: g / count, grads), metrics


def _noted(
    state: TrainState, update: Update, metrics, finite, in_a_row, log_every: int
) -> MetricSums:
    """The update's window with this step's metrics.

    A new window begins if a record was written since the update last ran.
    """
    before = state.window[update.name]
    fresh = state.step // log_every > (state.step - update.every) // log_every
    past = jax.tree.map(lambda value: jnp.where(fresh, jnp.zeros_like(value), value), before)
    sums = {
        name: tuple(
            total + jnp.where(finite, value, 0)
            for total, value in zip(past.sums[name], metrics[name], strict=True)
        )
        for name in past.sums
    }
    until = jnp.where(in_a_row > past.longest, state.step + 1, past.until)
    return MetricSums(sums, past.skipped + ~finite, jnp.maximum(past.longest, in_a_row), until)
