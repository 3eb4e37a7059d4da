"""One step of training, on a linear map: what it changes, what it must not, what it logs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import mesh_of_nothing
from toy_stage import toy_batches, toy_config, toy_loss, toy_stage

from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Linear, cast_weights
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.parallel.sharding import path_of, spec_of
from causalcine_jax.training.config import OptimConfig
from causalcine_jax.training.muon import scale_by_muon
from causalcine_jax.training.optim import (
    learning_rate,
    make_optimizer,
    muon_mask,
    weight_decay_mask,
)
from causalcine_jax.training.state import new_state
from causalcine_jax.training.step import make_update, metric_names

TINY = TransformerConfig(
    dim=16, ffn_dim=24, num_heads=2, num_layers=2, text_dim=8, text_len=4, freq_dim=8
)


def fresh(config):
    nets, stage = {"net": Linear(8, 8, key=jax.random.key(0))}, toy_stage(optim=config.optim)
    batch = next(toy_batches(config.batch))
    return new_state(stage, nets, metric_names(stage, nets, {}, batch)), batch


def stepped(config, batches):
    state, _ = fresh(config)
    stage = toy_stage(optim=config.optim)
    step = jax.jit(make_update(stage, stage.updates[0], config))
    for batch in batches:
        state = step(state, {}, batch)
    return state


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_micro_batches_add_up_to_the_batch(tmp_path):
    batches = [next(toy_batches(4))] * 3
    whole = stepped(toy_config(tmp_path), batches)
    parts = stepped(
        toy_config(tmp_path, optim=OptimConfig(lr=0.05, warmup=2, ema_decay=0.9, accumulation=2)),
        batches,
    )
    close(whole.params, parts.params, rtol=1e-5)
    mean = lambda pair: float(pair[0] / pair[1])
    assert mean(whole.window[""].sums["loss"]) == pytest.approx(
        mean(parts.window[""].sums["loss"]), rel=1e-5
    )


def test_the_first_step_is_adamw_by_hand(tmp_path):
    config = toy_config(
        tmp_path,
        optim=OptimConfig(
            lr=0.05, warmup=2, weight_decay=0.5, clip=0, schedule="constant", ema_decay=0
        ),
    )
    before, batch = fresh(config)
    after = stepped(config, [batch])
    gradient = jax.grad(lambda nets: toy_loss(nets, {}, batch, None)[0])(before.params)["net"]
    weight, new = before.params["net"].weight[...], after.params["net"].weight[...]
    # The first update of Adam is the gradient's sign, at half the rate in warmup. Weights decay,
    # biases do not.
    np.testing.assert_allclose(
        new, weight - 0.025 * (jnp.sign(gradient.weight[...]) + 0.5 * weight), atol=1e-5
    )
    np.testing.assert_allclose(
        after.params["net"].bias[...], -0.025 * jnp.sign(gradient.bias[...]), atol=1e-5
    )
    close(after.ema, after.params)


def test_steps_that_are_not_finite_change_nothing_but_their_count(tmp_path):
    config, good = toy_config(tmp_path, log_every=10), next(toy_batches(4))
    poisoned = {"x": -good["x"]}
    once, then = stepped(config, [good]), stepped(config, [good, poisoned, poisoned])
    for part in ("params", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(once, part), getattr(then, part))
    assert (
        int(then.step),
        int(then.skipped[""]),
        int(then.in_a_row[""]),
        int(then.window[""].longest),
    ) == (3, 2, 2, 2)
    assert (
        np.isfinite(then.window[""].sums["loss"][0]) and int(then.window[""].sums["loss"][1]) == 1
    )
    assert int(stepped(config, [good, poisoned, good]).in_a_row[""]) == 0


def test_gradients_are_clipped_by_their_global_norm(tmp_path):
    batch = {"x": 1000 * next(toy_batches(4))["x"]}
    config = toy_config(
        tmp_path,
        optim=OptimConfig(
            lr=0.05, warmup=0, clip=1e-3, eps=1.0, weight_decay=0, schedule="constant"
        ),
    )
    before, _ = fresh(config)
    after = stepped(config, [batch])
    moved = jnp.sqrt(
        sum(
            jnp.sum(jnp.square(a - b))
            for a, b in zip(
                jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True
            )
        )
    )
    assert float(after.window[""].sums["grad_norm"][0]) > 100
    assert float(moved) < 0.05 * 1.1e-3


def test_a_window_begins_after_each_record(tmp_path):
    batches = toy_batches(4)
    first = [next(batches) for _ in range(3)]
    state = stepped(toy_config(tmp_path, log_every=2), first)
    assert float(state.window[""].sums["first"][0]) == pytest.approx(float(first[2]["x"][0, 0]))
    assert float(state.window[""].sums["first"][1]) == 1


def test_learning_rate_warms_up_and_falls():
    rate = learning_rate(OptimConfig(lr=1.0, warmup=10, final_lr=0.1), steps=110)
    assert [float(rate(step)) for step in (0, 4, 9, 10, 60, 110)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 0.55, 0.1], abs=1e-6
    )
    constant = learning_rate(OptimConfig(lr=1.0, warmup=0, schedule="constant"), steps=110)
    assert float(constant(0)) == float(constant(109)) == 1.0


def names(tree, wanted) -> set[str]:
    return {
        path_of(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=wanted)[0]
        if wanted(leaf)
    }


def test_decay_and_muon_see_matrices_only():
    shapes = {"transformer": jax.eval_shape(lambda: Transformer(TINY, key=jax.random.key(0)))}
    weights = names(weight_decay_mask(shapes), lambda leaf: leaf is True)
    assert (
        "transformer.blocks.self_attn.q.weight" in weights and "transformer.head.weight" in weights
    )
    assert not any("norm" in name or "bias" in name or "modulation" in name for name in weights)
    by_muon = names(muon_mask(shapes), lambda leaf: leaf is True)
    assert by_muon == {name for name in weights if ".blocks." in name}


def test_muon_makes_singular_values_about_one():
    rng = np.random.default_rng(0)
    gradient = {
        "square": rng.standard_normal((2, 16, 16)),
        "tall": rng.standard_normal((3, 32, 16)),
        "wide": rng.standard_normal((16, 32)),
    }
    gradient = jax.tree.map(jnp.asarray, gradient)
    updates, _ = scale_by_muon().update(gradient, scale_by_muon().init(gradient))
    for name, longest in (("square", 16), ("tall", 32), ("wide", 32)):
        assert updates[name].shape == gradient[name].shape
        singular = jnp.linalg.svd(updates[name], compute_uv=False) / (0.2 * longest**0.5)
        assert float(singular.min()) > 0.3 and float(singular.max()) < 1.3, name
        # The factors of the singular value decomposition stay, so the update is aligned with its
        # gradient as well as possible.
        u, _, v = jnp.linalg.svd(gradient[name], full_matrices=False)
        assert (
            float(jnp.mean(jnp.einsum("...ij,...ij", u @ v, updates[name] / (0.2 * longest**0.5))))
            > 0.8 * 16
        )


def test_muon_takes_a_convolution_as_one_matrix():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 8, 16))
    rule = scale_by_muon()
    together, _ = rule.update({"kernel": kernel}, rule.init({"kernel": kernel}))
    flat, _ = rule.update(
        {"matrix": kernel.reshape(-1, 16)}, rule.init({"matrix": kernel.reshape(-1, 16)})
    )
    np.testing.assert_allclose(together["kernel"].reshape(-1, 16), flat["matrix"], rtol=1e-6)
    vae = {
        "vae": jax.eval_shape(
            lambda: VAE(
                VAEConfig(8, 16, (1, 1, 1), 1, (True, True)),
                key=jax.random.key(0),
            )
        )
    }
    by_muon = names(muon_mask(vae), lambda leaf: leaf is True)
    assert "vae.encoder.middle.0.conv1.weight" in by_muon
    assert not any(
        "conv1.bias" in name or name in ("vae.encoder.conv1.weight", "vae.decoder.head.conv.weight")
        for name in by_muon
    )


def test_without_momentum_adam_keeps_one_moment():
    params = {"net": Linear(8, 8, key=jax.random.key(0))}
    rule, adam = (
        make_optimizer(OptimConfig(b1=0.0, weight_decay=0)),
        optax.scale_by_adam(b1=0.0, b2=0.95),
    )
    ours, theirs = rule.init(params), adam.init(params)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(ours)) == 72 + 1
    )  # a number for each weight, and the count of steps
    for scale in (1.0, 1e-3, 10.0):
        gradient = jax.tree.map(lambda p, scale=scale: scale * jnp.sin(100 * p + scale), params)
        (a, ours), (b, theirs) = rule.update(gradient, ours, params), adam.update(gradient, theirs)
        close(a, jax.tree.map(jnp.negative, b), rtol=1e-6)


def test_muon_leaves_the_rest_to_adamw():
    params = {"transformer": jax.eval_shape(lambda: Transformer(TINY, key=jax.random.key(0)))}
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    optimizer = make_optimizer(OptimConfig(optimizer="muon", weight_decay=0))
    updates, _ = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p))(params)
    np.testing.assert_allclose(updates["transformer"].head.bias[...], -1.0, atol=1e-4)
    # A matrix of ones has one singular value. Muon makes it about 1, so that each of 16x16 entries
    # is about 1/16 of it.
    np.testing.assert_allclose(
        updates["transformer"].blocks.self_attn.q.weight[...], -0.2 * 16**0.5 / 16, rtol=0.35
    )


def test_what_steers_every_token_stays_float32():
    nets = jax.eval_shape(
        lambda: cast_weights(
            {"transformer": Transformer(TINY, key=jax.random.key(0))}, jnp.bfloat16
        )
    )
    kinds = {
        path_of(path): leaf.dtype for path, leaf in jax.tree_util.tree_flatten_with_path(nets)[0]
    }
    full = {name for name, dtype in kinds.items() if dtype == jnp.float32}
    assert kinds["transformer.blocks.ffn_0.weight"] == jnp.bfloat16
    assert full == {
        n
        for n in kinds
        if any(
            part in n
            for part in (
                "norm",
                "modulation",
                "time_embedding",
                "time_projection",
                "transformer.head",
            )
        )
    }


@pytest.mark.parametrize(
    "name, shape, spec",
    [
        ("q.weight", (6, 1024, 512), (None, None, ("data", "seq"))),
        ("head.weight", (1024, 63), (("data", "seq"),)),  # outputs that do not divide: inputs
        ("head.weight", (1023, 1023), ()),
        ("q.weight", (8, 8), ()),  # small
        ("norm_q.weight", (40, 5120), ()),
        ("q.bias", (40, 5120), ()),
        ("head_modulation", (40, 5120), ()),
    ],
)
def test_weights_are_cut_along_their_outputs_and_vectors_are_whole(name, shape, spec):
    assert tuple(spec_of(f"net.blocks.{name}", shape, mesh_of_nothing(4, 2))) == spec
