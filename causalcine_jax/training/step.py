"""One step of training: gradients over micro-batches, clipping, update, average; nothing at all if the numbers are not finite."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from causalcine_jax.models.nn import cast_weights
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.optim import learning_rate, make_optimizer
from causalcine_jax.training.state import Loss, Nets, TrainState, Window


def ema_decay(limit: float, step):
    """Grows from 0.1 to `limit`, so that the first steps' random weights are forgotten."""
    return jnp.minimum(limit, (1 + step) / (10 + step))


def make_step(loss: Loss, config: TrainConfig) -> Callable[[TrainState, Nets, object], TrainState]:
    """The function (state, fixed networks, batch) -> state of one step, to be jitted with its state donated."""
    optimizer, rate = make_optimizer(config.optim), learning_rate(config.optim, config.steps)
    dtype = jnp.dtype(config.dtype)

    def gradients(params: Nets, fixed: Nets, batch, key):
        compute = lambda params: loss(cast_weights(params, dtype), cast_weights(fixed, dtype), batch, key)
        (value, metrics), grads = jax.value_and_grad(compute, has_aux=True)(params)
        return grads, {**metrics, "loss": (value, jnp.ones(()))}

    def step(state: TrainState, fixed: Nets, batch) -> TrainState:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, metrics = _accumulated(gradients, state.params, fixed, batch, key, config.optim.accumulation)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"][0])
        if config.optim.clip:
            grads = jax.tree.map(lambda g: g * jnp.minimum(1, config.optim.clip / (norm + 1e-12)), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p + rate(state.step) * u, state.params, updates)
        decay = ema_decay(config.optim.ema_decay, state.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        in_a_row = jnp.where(finite, 0, state.in_a_row + 1)
        return TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            ema=keep(ema, state.ema),
            opt_state=keep(opt_state, state.opt_state),
            in_a_row=in_a_row,
            skipped=state.skipped + ~finite,
            window=_noted(state, {**metrics, "grad_norm": (norm, jnp.ones(()))}, finite, in_a_row, config.log_every),
        )

    return step


def metric_names(loss: Loss, params: Nets, fixed: Nets, batch) -> list[str]:
    """The metrics that `loss` gives, the step's own included; nothing is computed."""
    shapes = jax.eval_shape(lambda p, f, b: loss(p, f, b, jax.random.key(0))[1], params, fixed, batch)
    return sorted({*shapes, "loss", "grad_norm"})


def _accumulated(gradients, params: Nets, fixed: Nets, batch, key, count: int):
    """Mean gradient over `count` micro-batches, one after the other, and the sums of their metrics."""
    if count == 1:
        return gradients(params, fixed, batch, key)
    # Film i goes to micro-batch i % count: every device keeps the films it holds.
    parts = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0), batch)
    keys = jax.random.split(key, count)
    first = jax.eval_shape(lambda: gradients(params, fixed, jax.tree.map(lambda a: a[0], parts), key))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradients(params, fixed, *part)), None

    (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
    return jax.tree.map(lambda g: g / count, grads), metrics


def _noted(state: TrainState, metrics, finite, in_a_row, log_every: int) -> Window:
    """The window with this step's metrics; a new one begins after each record."""
    fresh = state.step % log_every == 0
    past = jax.tree.map(lambda value: jnp.where(fresh, jnp.zeros_like(value), value), state.window)
    sums = {
        name: tuple(total + jnp.where(finite, value, 0) for total, value in zip(past.sums[name], metrics[name], strict=True))
        for name in past.sums
    }
    until = jnp.where(in_a_row > past.longest, state.step + 1, past.until)
    return Window(sums, past.skipped + ~finite, jnp.maximum(past.longest, in_a_row), until)
