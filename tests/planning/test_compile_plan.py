"""launch/plan.py compile: a stage's arrays, programs compiled for the CPU, a TPU."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from plan_cases import FILMS, TINY, networks_of
from tiny_models import mesh_of_nothing
from tiny_training import tiny_config

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.config import PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.planning import compile_plan as planning
from causalcine_jax.planning import hardware as targets
from causalcine_jax.planning.attained import Expected
from causalcine_jax.planning.compile_plan import CompilePlan, compile_plan
from causalcine_jax.planning.compile_table import table, to_json
from causalcine_jax.planning.hardware import Chip, target, target_mesh
from causalcine_jax.planning.planned_rollout import rollout_steps
from causalcine_jax.planning.planned_step import (
    FilmBatch,
    shapes,
    training_steps,
)
from causalcine_jax.planning.roofline import Roofline
from causalcine_jax.presets import preset
from causalcine_jax.training.config import DataConfig, OptimConfig, SampleConfig
from causalcine_jax.training.stages.spec import stage_spec
from causalcine_jax.utils.arrays import tree_bytes


@pytest.mark.usefixtures("here")
def test_a_stage_has_its_networks_ema_and_optimizer(tmp_path):
    config = tiny_config(tmp_path)
    (step,) = training_steps(config, FilmBatch.of(config, **FILMS), target_mesh(target("here")))
    parameters = sum(tree_bytes(shapes(*net)) for net in networks_of(config).values())
    assert step.parts["parameters"] == step.parts["EMA"] == (parameters, parameters)
    assert step.parts["optimizer"][0] == 2 * parameters + 4  # two moments and a count
    # latents, token ids, shots
    assert step.parts["batch"][0] == 4 * (9 * 4 * 4 * 16 * 4 + 5 * 8 * 4 + 3 * 4)
    assert tree_bytes(step.arguments) == sum(
        whole for whole, _ in step.parts.values()
    ) + tree_bytes(bookkeeping(step.arguments[0]))


def bookkeeping(state):
    return (state.step, state.in_a_row, state.skipped, state.window)


@pytest.mark.usefixtures("here")
def test_a_compiled_programs_account_and_one_that_does_not_fit(monkeypatch, capsys):
    weight, x = (
        jax.ShapeDtypeStruct((256, 256), jnp.float32),
        jax.ShapeDtypeStruct((64, 256), jnp.float32),
    )
    update = jax.jit(
        lambda w, x: w - jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w), donate_argnums=0
    )
    step = planning.PlannedStep(
        "update",
        update.trace,
        (weight, x),
        {"parameters": (tree_bytes(weight),) * 2, "batch": (tree_bytes(x),) * 2},
        every=2,
    )
    monkeypatch.setattr(planning, "training_steps", lambda *_: [step])
    plan = compile_plan(tiny_config(), "here", **FILMS)
    (account,) = plan.accounts
    assert (
        account.flops == 2 * (2 * 64 * 256 * 256)
        and not account.collectives
        and account.results == 0
    )
    assert (
        plan.fits and account.total == tree_bytes((weight, x)) + account.temporaries + account.code
    )
    assert account.buffers[0].bytes in (
        tree_bytes(weight),
        tree_bytes(x),
    ) and account.traffic > tree_bytes((weight, x))
    assert (plan.cycle, plan.cycle_seconds) == (
        2,
        (account.roofline.bound, account.roofline.serial),
    )
    report = json.loads(to_json(plan))
    assert report["seconds_per_step"]["bound"] == account.roofline.bound / 2
    assert report["seconds_per_cycle"]["runs"] == {"update": 1}
    assert (
        report["fits"]
        and report["programs"][0]["parts"]["batch"]["device"] == tree_bytes(x)
        and not report["advice"]
    )
    assert "fits in 1.000 GB" in table(plan) and "peaks: 1 TFLOP/s (bf16)" in table(plan)

    # The command on a device that is too small: its exit code, and what it names.
    monkeypatch.setitem(
        targets.CHIPS, "here", Chip("gpu", account.total - 1, 1e12, 1e11, 1e10, ("1x1",))
    )
    asked = ["--topology=here", "--frames=9", "--size=32x32", f"--config={TINY}"]
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["plan", "compile", *asked]))
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and "does not fit here:1x1" in err
    assert (
        "DOES NOT FIT" in out
        and account.buffers[0].shape in out
        and "--config.remat=True" in out
        and "--config.optim.accumulation=4" in out
    )


@pytest.mark.usefixtures("here")
def test_a_rollouts_moves_are_compiled_and_reported_per_chunk(tmp_path):
    vae = VAEConfig(2, 16, (1, 1, 1), 1, (True, True), mean=(0.0,) * 16, std=(1.0,) * 16)
    config = tiny_config(tmp_path, sample=SampleConfig(steps=2, guidance=3.0), vae=vae)
    plan = compile_plan(config, "here", frames=9, size=(16, 16), rollout=PoolConfig(9))
    assert [one.name for one in plan.accounts] == ["denoise", "commit", "decode"] and plan.fits
    denoise, commit, _ = plan.accounts
    tokens, heads_times_channels = 9 * 4, 24
    # Keys and values of two layers and two histories, in bfloat16.
    keys = 2 * 2 * 2 * tokens * heads_times_channels * 2
    # A frame's mean key in float32; of chunks their index and use.
    described = 2 * 2 * 9 * 24 * 4 + 3 * 4 + 3 * 4
    assert (
        denoise.parts["pool"] == commit.parts["pool"] == (keys + described,) * 2
        and not denoise.host
    )
    # Two steps; the commit has no head.
    assert 1.5 * commit.flops < denoise.flops < 2.5 * commit.flops
    report = json.loads(to_json(plan))
    bound, serial = plan.cycle_seconds
    likely = dict(zip(("expected", "expected_least", "expected_most"), plan.cycle_expected))
    assert report["seconds_per_chunk"] == {"bound": bound, "serial": serial} | likely
    assert serial < likely["expected_least"] < likely["expected"] < likely["expected_most"]
    assert "seconds_per_step" not in report
    assert bound == sum(
        one.roofline.bound for one in plan.accounts
    ) and "a chunk of 12 video frames, at peak: at least" in table(plan)


@pytest.mark.parametrize(("place", "embeddings"), [("device", False), ("host", True)])
def test_a_rollouts_pool_is_sharded_by_heads_wherever_it_is(place, embeddings, tmp_path):
    known = {"train_text_encoder": False, "init": "a model", "data": DataConfig(embeddings=True)}
    config = tiny_config(tmp_path, **(known if embeddings else {}))
    films = FilmBatch.of(config, **FILMS)
    steps = rollout_steps(config, films, mesh_of_nothing(2, 2), PoolConfig(12, on=place))
    encoder = tree_bytes(shapes(*networks_of(config)["text_encoder"])) / 2  # bfloat16
    # Of one history: keys and values, layers, tokens, channels, bfloat16.
    frame = 2 * 2 * 4 * 24 * 2
    for step in steps:
        held = step.host["pool"] if place == "host" else step.parts["pool"]
        # Descriptors, chunks' indices and use.
        beside = 0 if place == "host" else 4 * 2 * 12 * 24 * 4 + 4 * 8
        assert held[0] == 4 * 12 * frame + beside  # a film with guidance in each row of the mesh
        assert held[1] == pytest.approx(held[0] / 4, rel=0.01)
        # Of the last decode, whose layers shard frames; and what a film keeps beside every move.
        cache, share = step.parts["VAE cache"]
        assert share == cache / 4
        assert step.parts.get("text encoder", (0, 0))[0] == (0 if embeddings else encoder)
    with pytest.raises(
        UsageError, match="seq=4 does not divide the 2 heads that a pool is sharded by"
    ):
        rollout_steps(config, films, mesh_of_nothing(1, 4), PoolConfig())


def test_a_cycle_of_updates_is_reported_beside_the_mean_step(tmp_path):
    """One student update and five critic updates, as bench.py measures DMD."""
    config = tiny_config(tmp_path)
    blank = planning._refused(
        planning.PlannedStep("", print, (), {}),
        target("h200"),
        0.0,
        "",
        {"trace": 0.0, "compile": 0.0},
    )
    blank, line = dataclasses.replace(blank, traffic=0), lambda seconds: Roofline(seconds, 1.0, 0.0)
    accounts = [
        dataclasses.replace(
            blank,
            name=name,
            every=every,
            roofline=line(s),
            expected=Expected(2 * s, s + 1, 3 * s, {"attention": 2 * s}),
        )
        for name, every, s in (("generator", 5, 20.0), ("critic", 1, 10.0))
    ]
    plan = CompilePlan(
        "dmd", config, target("h200"), FilmBatch.of(config, **FILMS), 1, tuple(accounts)
    )
    assert (plan.cycle, plan.cycle_seconds) == (5, (70.0, 76.0))
    assert (
        "a cycle of 5 steps (generator once, critic 5 times): at least 70 s, 76 s if nothing "
        "overlaps"
    ) in table(plan)
    assert "a step, the mean of a cycle's: at least 14 s, 15.2 s" in table(plan)
    report = json.loads(to_json(plan))
    assert report["seconds_per_step"] == {"bound": 14.0, "serial": 15.2}
    assert report["seconds_per_cycle"] == {
        "steps": 5,
        "runs": {"generator": 1, "critic": 5},
        "bound": 70.0,
        "serial": 76.0,
        "expected": 140.0,
        "expected_least": 76.0,
        "expected_most": 210.0,
    }
    assert "expected: 140 s (76 to 210); a step 28 s" in table(plan)
    assert "how sure: rates published: attention, convolutions; estimated: wide products" in table(
        plan
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("stage", ["ode_init", "dmd"])
def test_a_students_stages_have_their_networks_history_and_period(stage, tmp_path):
    optim = OptimConfig(lr=1e-3, warmup=1)
    config = tiny_config(
        tmp_path,
        stage=stage,
        teacher="teacher",
        remat=True,
        train_text_encoder=False,
        critic_optim=optim,
    )
    mesh = target_mesh(target("here"))
    steps = {
        step.name: step for step in training_steps(config, FilmBatch.of(config, **FILMS), mesh)
    }
    student = tree_bytes(shapes(*networks_of(config)["transformer"]))
    parts = {name: whole for name, (whole, _) in next(iter(steps.values())).parts.items()}
    pool = 2 * 2 * 4 * 9 * 4 * 24 * 4  # k and v, layers, films, frames, tokens, channels, float32
    if stage == "ode_init":
        assert (
            set(steps) == {"ode_init"}
            and parts["parameters"] == parts["EMA"] == parts["teacher, not trained"] == student
        )
        assert steps["ode_init"].pool == pytest.approx(2 * pool, rel=0.2)  # guidance: two histories
    else:
        assert (steps["generator"].every, steps["critic"].every, steps["critic"].unknown_trips) == (
            5,
            1,
            4,
        )
        head = tree_bytes(stage_spec(config, (1,)).shapes().trained["head"])
        assert (parts["parameters"], parts["EMA"]) == (2 * student + head, student)
        assert steps["critic"].pool == pytest.approx(pool, rel=0.2)
    (*_, step) = training_steps(config, FilmBatch.of(config, **FILMS), mesh_of_nothing(2, 2))
    (*_, whole) = steps.values()
    # Films are sharded over rows, heads over each row's devices.
    assert step.pool == pytest.approx(whole.pool / 4, rel=0.01)


def test_a_planned_step_has_the_products_that_the_run_has(tmp_path):
    def products(precision: str) -> str:
        config = tiny_config(tmp_path, matmul_precision=precision)
        mesh = mesh_of_nothing(1, 1)
        (step,) = training_steps(config, FilmBatch.of(config, **FILMS), mesh)
        with jax.sharding.use_abstract_mesh(mesh):
            return str(step.trace(*step.arguments).jaxpr)

    assert products("float32") != products("") == products("")


def test_a_film_is_of_the_size_that_its_transformer_was_made_for(tmp_path):
    wan, world = preset("wan-1.3b"), DataConfig(world="storyworld")
    config = tiny_config(
        tmp_path, transformer=wan.transformer, text_encoder=wan.text_encoder, data=world
    )
    assert FilmBatch.of(config) == FilmBatch(60, 480, 832, 5)
    world = tiny_config(tmp_path, data=DataConfig(world="base"))
    assert FilmBatch.of(world) == FilmBatch(30, 48, 80, 5)
    with pytest.raises(
        UsageError,
        match="10 latent frames are not one or more whole chunks of 3; "
        r"height must be a positive multiple of 16 pixels, not 30 \(nearest: 16 or 32\)",
    ):
        FilmBatch.of(world, frames=10, size=(80, 30))


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu: pip install 'causalcine-jax[tpu]'",
)
def test_a_tiny_stage_compiles_for_four_tpus_and_knows_its_platform(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    with jax.default_matmul_precision("default"):
        plan = compile_plan(tiny_config(tmp_path, remat=True, dtype="bfloat16"), "v5e:2x2", **FILMS)
    (account,) = plan.accounts
    assert plan.fits and account.collectives and account.temporaries > 0 and account.flops > 0
    from causalcine_jax.parallel.platform import platform

    mesh = target_mesh(plan.target)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert jax.eval_shape(lambda: jnp.zeros(platform() == "tpu")).shape == (1,)
