"""A stage of several networks and updates, on linear maps: who changes whom, and how often.

A stopped run continues exactly.
"""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_stage import OPTIM, toy_batches, toy_config

from causalcine_jax.errors import DataError
from causalcine_jax.models.nn import Linear
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records
from causalcine_jax.training.state import Stage, Update, new_state
from causalcine_jax.training.step import make_update, metric_names

CRITIC = dataclasses.replace(OPTIM, lr=0.02, warmup=0, ema_start=3)
EVERY = 3
TIMES = ("films_per_s", "step_s", "data_wait_s")


def player_loss(trained, fixed, batch, key):
    """Sees every network of the stage: its own to be changed, all others as they are."""
    assert set(trained) == {"player"} and set(fixed) == {"judge", "head", "teacher"}
    noise = jax.random.normal(key, batch["x"].shape)
    wanted = fixed["teacher"](batch["x"]) + fixed["judge"](fixed["head"](noise))
    return jnp.mean(jnp.square(trained["player"](batch["x"]) - wanted)), {
        "noise": (jnp.mean(noise), jnp.ones(()))
    }


def judge_loss(trained, fixed, batch, key):
    assert set(trained) == {"judge", "head"} and set(fixed) == {"player", "teacher"}
    seen = fixed["player"](batch["x"]) + jax.random.normal(key, batch["x"].shape)
    return jnp.mean(jnp.square(trained["judge"](trained["head"](seen)) - 3)), {}


def stage(batches=None, limits=None, exported=None) -> Stage:
    net = lambda key: Linear(8, 8, key=key)
    return Stage(
        trained={"player": net, "judge": net, "head": net},
        fixed={"teacher": Linear(8, 8, key=jax.random.key(9))},
        updates=(
            Update(player_loss, ("player",), OPTIM, "generator", EVERY),
            Update(judge_loss, ("judge", "head"), CRITIC, "critic"),
        ),
        batches=batches or toy_batches(4),
        export=lambda nets, folder, facts: exported.append(nets) if exported is not None else None,
        exported=("player",),
        limits=limits or {},
    )


def fresh(made: Stage):
    nets = {name: make(jax.random.key(i)) for i, (name, make) in enumerate(made.trained.items())}
    batch = next(toy_batches(4))
    return new_state(made, nets, metric_names(made, nets, made.fixed, batch)), batch


def changed(before, after) -> set[str]:
    return {
        name
        for name in before
        if any(
            not np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True)
        )
    }


def test_an_update_changes_its_own_networks_only(tmp_path):
    made = stage()
    state, batch = fresh(made)
    of_player, of_judge = (
        jax.jit(make_update(made, update, toy_config(tmp_path))) for update in made.updates
    )
    after = of_player(state, made.fixed, batch)
    assert changed(state.params, after.params) == {"player"} == changed(state.ema, after.ema)
    assert changed(state.opt_state, after.opt_state) == {"generator"}
    assert int(after.step) == 0  # the step ends with the last update
    done = of_judge(after, made.fixed, batch)
    assert changed(after.params, done.params) == {"judge", "head"}
    assert set(done.ema) == {"player"} and not changed(after.ema, done.ema)
    assert changed(after.opt_state, done.opt_state) == {"critic"} and int(done.step) == 1


def test_an_update_may_start_late():
    update = dataclasses.replace(stage().updates[0], every=2, start=3)
    assert [step for step in range(9) if update.due(step)] == [4, 6, 8]


def test_a_network_may_learn_at_a_rate_of_its_own(tmp_path):
    made = stage()
    state, batch = fresh(made)
    far = {}
    for rate in (1.0, 10.0):
        update = dataclasses.replace(made.updates[1], rates={"head": rate})
        one = dataclasses.replace(made, updates=(made.updates[0], update))
        after = jax.jit(make_update(one, update, toy_config(tmp_path)))(state, made.fixed, batch)
        far[rate] = {
            name: after.params[name].weight[...] - state.params[name].weight[...]
            for name in update.nets
        }
    np.testing.assert_allclose(far[10.0]["head"], 10 * far[1.0]["head"], rtol=1e-3)
    np.testing.assert_array_equal(far[10.0]["judge"], far[1.0]["judge"])


def test_networks_are_clipped_one_by_one(tmp_path):
    """A head with an enormous gradient does not change the step of the other network."""

    def loss(trained, fixed, batch, key):
        return 1e6 * jnp.sum(trained["head"].weight[...]) + jnp.sum(
            trained["judge"].weight[...] * batch["x"][0]
        ), {}

    optim = dataclasses.replace(
        CRITIC, clip=0.5, eps=1.0, weight_decay=0, schedule="constant"
    )  # eps: steps as long as gradients
    made = dataclasses.replace(stage(), updates=(Update(loss, ("judge", "head"), optim, "critic"),))
    state, batch = fresh(made)
    after = jax.jit(make_update(made, made.updates[0], toy_config(tmp_path)))(
        state, made.fixed, batch
    )
    gradient = jnp.broadcast_to(batch["x"][0], (8, 8))
    step = 0.5 * gradient / jnp.linalg.norm(gradient)
    moved = after.params["judge"].weight[...] - state.params["judge"].weight[...]
    np.testing.assert_allclose(moved, -0.02 * step / (jnp.abs(step) + 1), rtol=1e-3)
    sums = after.window["critic"].sums
    norms = {name: float(sums[f"critic_{name}grad_norm"][0]) for name in ("judge_", "head_", "")}
    assert norms == pytest.approx(
        {"judge_": float(jnp.linalg.norm(gradient)), "head_": 8e6, "": 8e6}, rel=1e-5
    )


def test_updates_draw_from_streams_of_their_own(tmp_path):
    made = stage()
    state, batch = fresh(made)
    noise = []
    for update in made.updates:
        spy = lambda trained, fixed, batch, key: (
            jnp.sum(jax.tree.leaves(trained)[0]) * 0,
            {"n": (jax.random.normal(key), jnp.ones(()))},
        )
        one = dataclasses.replace(update, loss=spy)
        other = dataclasses.replace(
            made, updates=tuple(one if u is update else u for u in made.updates)
        )
        begun = new_state(other, state.params, metric_names(other, state.params, made.fixed, batch))
        noise.append(
            float(
                jax.jit(make_update(other, one, toy_config(tmp_path)))(begun, made.fixed, batch)
                .window[update.name]
                .sums["n"][0]
            )
        )
    first = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0))
    assert noise[0] == pytest.approx(float(first), rel=1e-6) and noise[1] != noise[0]


def test_the_average_waits_for_its_start(tmp_path):
    made = stage()
    late = dataclasses.replace(made.updates[0], optim=dataclasses.replace(OPTIM, ema_start=6))
    made = dataclasses.replace(made, updates=(late, made.updates[1]))
    state, batch = fresh(made)
    run = jax.jit(make_update(made, late, toy_config(tmp_path)))
    state = run(dataclasses.replace(state, step=jnp.int32(3)), made.fixed, batch)
    jax.tree.map(np.testing.assert_array_equal, state.ema["player"], state.params["player"])
    state = run(dataclasses.replace(state, step=jnp.int32(6)), made.fixed, batch)
    assert changed({"player": state.ema["player"]}, {"player": state.params["player"]})


def test_the_log_tells_updates_apart(tmp_path):
    exported = []
    state = train(toy_config(tmp_path, steps=8, log_every=2), stage(exported=exported))
    records = read_records(tmp_path / "metrics.jsonl")
    # The generator runs in steps 0, 3 and 6: not in the record of steps 4 and 5.
    assert ["generator_loss" in record for record in records] == [True, True, False, True]
    assert all(
        {"critic_loss", "critic_grad_norm", "critic_head_grad_norm", "critic_lr", "skipped"}
        <= set(record)
        for record in records
    )
    assert {"generator_lr", "generator_grad_norm", "noise"} <= set(
        records[0]
    ) and "loss" not in records[0]
    assert (tmp_path / "loss.png").stat().st_size > 5000
    [nets] = exported
    assert set(nets) == {"player"}
    jax.tree.map(np.testing.assert_array_equal, nets["player"], state.ema["player"])


@pytest.mark.usefixtures("no_picture")
def test_a_stopped_run_of_several_networks_goes_on_to_the_bit(tmp_path):
    whole = train(toy_config(tmp_path / "whole", log_every=1), stage())
    batches, taken = toy_batches(4), []

    class StoppedAtFive:
        def __next__(self):
            taken.append(None)
            if len(taken) == 6:  # the first was only looked at
                os.kill(os.getpid(), signal.SIGTERM)
            return next(batches)

        def __getattr__(self, name):
            return getattr(batches, name)

    parts = train(toy_config(tmp_path / "parts", log_every=1), stage(StoppedAtFive()))
    assert int(parts.step) == 5
    parts = train(toy_config(tmp_path / "parts", log_every=1), stage())
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    curves = [
        [
            {name: value for name, value in record.items() if name not in TIMES}
            for record in read_records(tmp_path / out / "metrics.jsonl")
        ]
        for out in ("whole", "parts")
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 12


def test_a_metric_beyond_its_limit_stops_the_run_with_advice(tmp_path):
    with pytest.raises(
        DataError,
        match=r"critic_loss was .* in the steps up to 2, more than 1: lower its rate; "
        "there is no checkpoint yet",
    ):
        train(toy_config(tmp_path), stage(limits={"critic_loss": (1.0, "lower its rate")}))


def test_updates_must_end_their_steps():
    made = stage()
    with pytest.raises(ValueError, match="the last of them must run at every step"):
        dataclasses.replace(made, updates=made.updates[::-1])
