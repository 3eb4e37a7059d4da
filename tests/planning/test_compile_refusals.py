"""launch/plan.py compile: refused flags and targets, compiler failures, advice."""

import dataclasses
import logging
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh
from plan_cases import FILMS, REFUSAL, TINY
from tiny_models import mesh_of_nothing
from tiny_training import tiny_config

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.planning import compile_plan as planning
from causalcine_jax.planning import compilers
from causalcine_jax.planning.compile_advice import advice
from causalcine_jax.planning.compile_plan import CompilePlan
from causalcine_jax.planning.hardware import target, target_devices, target_mesh
from causalcine_jax.planning.planned_step import FilmBatch, training_steps
from causalcine_jax.training.config import ODEConfig, OptimConfig

FIX = (
    r"pip install 'causalcine-jax\[cuda13\]' installs all that it needs; "
    "if that is done, this is a bug in the compiler or in causalcine"
)


def step_that(trace=lambda: None, compile=lambda: None):
    """A planned step whose tracing and compiling call these first."""
    lowered = SimpleNamespace(compile=lambda compiler_options: compile())

    def traced(x):
        trace()
        return SimpleNamespace(jaxpr=jax.make_jaxpr(lambda x: x)(x), lower=lambda: lowered)

    return planning.PlannedStep("denoise", traced, (jnp.zeros(2),), parts={})


def fails(said):
    def fail(*_, **__):
        raise said

    return fail


def account_of(step):
    mesh = Mock(spec=Mesh, abstract_mesh=mesh_of_nothing(1, 1))
    return planning.account(step, mesh, target("h200:1x1"))


@pytest.mark.parametrize(
    "fault, said",
    [
        (jax.errors.JaxRuntimeError("INTERNAL: no tiles for %dot.7\n\tmore about it"), "%dot.7"),
        (RuntimeError("Unable to load cuDNN"), "Unable to load cuDNN"),
        (NotImplementedError("no topology"), "no topology"),
    ],
)
@pytest.mark.parametrize("when", ["trace", "compile"])
def test_a_compiler_that_fails_is_one_clear_error(fault, said, when):
    fails_so = rf"^the compiler for h200:1x1 fails at denoise: .*{said}; {FIX}"
    with pytest.raises(DataError, match=fails_so) as raised:
        account_of(step_that(**{when: fails(fault)}))
    assert raised.value.__cause__ is fault and "more about it" not in str(raised.value)


def test_a_fault_of_our_own_keeps_its_traceback():
    with pytest.raises(TypeError, match="ours"):
        account_of(step_that(trace=fails(TypeError("ours"))))
    refused = DataError("said already")
    with pytest.raises(DataError) as raised:
        account_of(step_that(trace=fails(refused)))
    assert raised.value is refused


def test_a_plugin_that_does_not_load_is_one_clear_error_below_what_jax_logs(monkeypatch, caplog):
    """jax logs the cause with a traceback, and says of the platform only that it is unknown."""

    def topology(*_, **__):
        logging.getLogger("jax._src.xla_bridge").error("libcudart.so.13: cannot open")
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr(compilers, "installed", lambda platform: True)
    monkeypatch.setattr(topologies, "get_topology_desc", topology)
    with pytest.raises(DataError, match=rf"fails at its start: Unknown backend cuda; {FIX}"):
        target_devices(target("h200:1x1"))
    assert "libcudart.so.13" in caplog.text
    # Another platform's plugin may fail: these devices are those asked for.
    there = lambda *_, **__: SimpleNamespace(devices=["a device"])
    monkeypatch.setattr(topologies, "get_topology_desc", there)
    assert target_devices(target("h200:1x1")) == ["a device"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "flags, fault",
    [
        ("--seq=0", "1 devices, which cannot be split into groups of seq=0: 1 can be"),
        ("--seq=-1", "cannot be split into groups of seq=-1"),
        ("--frames=0", "0 latent frames are not one or more whole chunks of 3"),
        ("--frames=-3", "-3 latent frames are not one or more whole chunks of 3"),
        ("--size=0x32", "width must be a positive multiple of 16 pixels, not 0 (nearest: 16)"),
        ("--rollout --pool-frames=0", "0 frames is not a positive multiple of 3"),
        ("--rollout --pool-frames=-3", "-3 frames is not a positive multiple of 3"),
        (
            "--pool-frames=9",
            "--pool-frames applies only to a rollout: add --rollout",
        ),
        ("--pool-on=host", "add --rollout"),
    ],
)
def test_an_impossible_flag_is_one_clear_error(flags, fault, monkeypatch, capsys):
    asked = [] if "--size" in flags else ["--size=32x32"]
    asked += [] if "--frames" in flags.split("=") else ["--frames=9"]
    asked += ["--topology=here", f"--config={TINY}", *flags.split()]
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["plan", "compile", *asked]))
    err = capsys.readouterr().err
    assert ended.value.code == 2 and fault in err and len(err.splitlines()) == 1


def test_a_refusal_by_a_tpus_compiler_is_reported_with_its_largest_allocations():
    step = planning.PlannedStep(
        "step", print, (), parts={"parameters": (64 * 5 * 2**30, 5 * 2**30)}
    )
    account = planning._refused(
        step, target("v5e:8x8"), 1e12, REFUSAL, {"trace": 1.0, "compile": 2.0}
    )
    assert not account.fits and (account.total, account.temporaries) == (
        int(22.5 * 2**30),
        int(17.5 * 2**30),
    )
    assert [(b.bytes, b.shape, b.source) for b in account.buffers] == [
        (4 * 2**30, "bf16[20,10,1560,12,128]", "jit(run)/while/body/gather"),
        (2**29, "f32[8,128]", ""),
    ]
    far_too_large = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (37.25G) exceeds available HBM (15.75G)."
    )
    account = planning._refused(step, target("v5e:8x8"), 1e12, far_too_large, {})
    assert (account.total, account.temporaries, account.buffers) == (
        int(42.25 * 2**30),
        int(37.25 * 2**30),
        (),
    )


def test_advice_names_the_weights_that_a_rollout_replicates(tmp_path):
    optim = OptimConfig(lr=1e-3, warmup=1)
    config = tiny_config(
        tmp_path, stage="dmd", teacher="teacher", train_text_encoder=False, critic_optim=optim
    )
    account = planning._refused(
        planning.PlannedStep("critic", print, (), {"parameters": (8, 2)}),
        target("v6e:2x2"),
        1.0,
        REFUSAL,
        {},
    )
    advised = lambda config: " ".join(
        advice(
            CompilePlan(
                config.stage,
                config,
                target("v6e:2x2"),
                FilmBatch.of(config, **FILMS),
                1,
                (account,),
            )
        )
    )
    assert "--config.rollout_weights=sharded holds 0.00 GB less" in advised(config)
    for change in (
        {"rollout_weights": "sharded"},
        {"stage": "ode_init", "ode": ODEConfig(store="trajectories")},
    ):
        assert "rollout_weights" not in advised(dataclasses.replace(config, **change))
    with pytest.raises(
        UsageError, match="unknown rollout_weights 'whole', known: gathered, sharded"
    ):
        dataclasses.replace(config, rollout_weights="whole")


def test_impossible_targets_are_refused(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError,
        match=r"unknown topology 'v5p:4x4x5', did you mean 'v5p:4x4x8'\?; "
        r"known: v5p:4x4x4, v5p:2x2x1, .*h200:8x8",
    ):
        target("v5p:4x4x5")
    with pytest.raises(UsageError, match=r"unknown topology 'b200', .*h100:8x8.*v6e:8x8"):
        target("b200")
    assert (target("h200").name, target("h200").devices, target("v5e").devices) == (
        "h200:1x8",
        8,
        64,
    )
    with pytest.raises(
        UsageError,
        match=r"v5p:2x2x1 has 4 devices, which cannot be split into groups of seq=3: "
        r"1, 2, 4 can be",
    ):
        target_mesh(target("v5p:2x2x1"), 3)
    monkeypatch.setattr(compilers, "installed", lambda platform: False)
    with pytest.raises(
        UsageError,
        match=r"compiling for v6e:8x8 needs libtpu, which is not installed here: "
        r"pip install 'causalcine-jax\[tpu\]'",
    ):
        target_devices(target("v6e:8x8"))
    with pytest.raises(
        UsageError, match=r"needs jax_plugins, .*pip install 'causalcine-jax\[cuda13\]'"
    ):
        target_devices(target("h200"))
    config = tiny_config(tmp_path, stage="autoencoder")
    with pytest.raises(UsageError, match="stage autoencoder is not planned"):
        training_steps(config, FilmBatch.of(config, **FILMS), mesh_of_nothing(1, 1))
