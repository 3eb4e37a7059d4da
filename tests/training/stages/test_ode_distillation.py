"""ODE initialisation: trajectories against a naive loop, the student's loss, and the store."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_films import damage
from tiny_models import random_weights
from tiny_training import tiny_config, tiny_store

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.store_layout import missing_shards, partial_path
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film import rollout
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.training.stages import trajectory_store
from causalcine_jax.training.stages.ode import (
    ODEConfig,
    ODEInit,
    Trajectory,
    ode_init_loss,
    split_record,
    student_velocity,
    teacher_trajectory,
)
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig
from causalcine_jax.training.stages.trajectory_store import (
    TrajectorySettings,
    trajectory_spec,
    write_trajectories,
)
from causalcine_jax.training.step_memory import working_bytes

NULL = (1, 0, 0, 0, 0, 0, 0, 0)
GUIDANCE, MEMORY_GUIDANCE, STEPS = 3.0, 0.5, 6
TASK = ODEInit(
    NULL,
    SelfForcingConfig(steps=3).sampler,
    ODEConfig(steps=STEPS, guidance=GUIDANCE).sampler(5.0),
    PassConfig(MemoryConfig("camr", 1, 2)),
)
KEY = jax.random.key(0)


# Compiled once for all tests.
VELOCITY, WINDOWED = (
    jax.jit(functools.partial(rollout.chunk_velocity, memory=memory))
    for memory in (TASK.passes.memory, MemoryConfig("none", 1))
)
COMMIT = jax.jit(functools.partial(rollout.commit_chunk, memory=TASK.passes.memory))
EMBED = jax.jit(
    lambda teacher, text_encoder, ids: rollout.embed_prompt(teacher, text_encoder(ids, ids != 0))
)


@jax.jit
def noise_of(numbers) -> jax.Array:
    """What a store of seed 0 begins these of its trajectories with, each from its number alone."""
    one = lambda number: jax.random.normal(jax.random.fold_in(KEY, number), (9, 4, 4, 16))
    return jax.vmap(one)(numbers)


def relative(a, b) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def nets():
    sizes = tiny_config()
    return (
        random_weights(lambda key: Transformer(sizes.transformer, key=key), 0),
        random_weights(lambda key: UMT5Encoder(sizes.text_encoder, key=key), 1),
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("ode") / "store", films=3)


@pytest.fixture(scope="module")
def batch(films):
    records = [films[i] for i in range(2)]
    return {
        name: np.stack([record[name] for record in records])
        for name in ("latents", "token_ids", "shot_of_chunk")
    }


@pytest.fixture(scope="module")
def trajectory(nets, batch):
    return made(TASK, nets, batch)


def made(task, nets, batch):
    return jax.jit(functools.partial(teacher_trajectory, task))(
        *nets, batch, noise_of(np.arange(2))
    )


def naive(teacher, text_encoder, film, ids, shots, noise, memory_guidance):
    """Every x of one film under one text, by written-out Euler steps.

    Each chunk is denoised after the true chunks before it.
    """
    sigmas = [5 * u / (1 + 4 * u) for u in np.linspace(1, 0, STEPS + 1)]
    pools = [KVCache.empty(teacher.config, 1, 9, 4, 3) for _ in range(2)]
    rows = []
    for chunk in range(3):
        part, number = slice(3 * chunk, 3 * chunk + 3), np.int32(chunk)
        both = (ids[shots[chunk]], np.asarray(NULL, np.int32))
        prompts = [EMBED(teacher, text_encoder, tokens[None]) for tokens in both]
        x, passed = noise[None, part], []
        for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
            passed.append(x)
            each = []
            for pool, text in zip(pools, prompts, strict=True):
                inputs = (teacher, pool, x, np.float32(1000 * high), text, number)
                v = np.asarray(VELOCITY(*inputs))
                if memory_guidance:
                    v = v + memory_guidance * (v - np.asarray(WINDOWED(*inputs)))
                each.append(v)
            with_prompt, without = each
            x = x + np.float32(low - high) * (without + GUIDANCE * (with_prompt - without))
        rows.append(np.stack([*passed, x])[:, 0])
        pools = [
            COMMIT(teacher, pool, film[None, part], text, number)
            for pool, text in zip(pools, prompts, strict=True)
        ]
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize("memory_guidance", [0.0, MEMORY_GUIDANCE])
def test_a_trajectory_is_that_of_a_naive_loop(nets, batch, trajectory, memory_guidance):
    noise = np.asarray(noise_of(np.arange(2)))
    film = [batch[name][1] for name in ("latents", "token_ids", "shot_of_chunk")]
    passed = naive(*nets, *film, noise[1], memory_guidance)
    if memory_guidance:
        teacher = dataclasses.replace(TASK.teacher, memory_guidance=memory_guidance)
        strengthened = made(dataclasses.replace(TASK, teacher=teacher), nets, batch)
        assert not np.array_equal(strengthened.end, trajectory.end)
        trajectory = strengthened
    trajectory = jax.tree.map(np.asarray, trajectory)
    assert trajectory.points.shape == (3, *batch["latents"].shape)
    assert relative(trajectory.end[1], passed[-1]) < 1e-4
    for point, step in zip(trajectory.points[:, 1], (0, 2, 4), strict=True):
        assert relative(point, passed[step]) < 1e-4


def test_the_kept_times_are_the_students():
    full = ODEInit(NULL, SelfForcingConfig().sampler, ODEConfig().sampler(5.0))
    assert full.teacher_steps == (0, 12, 24, 36)
    np.testing.assert_allclose(full.times, [1000, 937.5, 2500 / 3, 625], atol=1e-3)
    rounded = SamplerConfig(
        "few_step", 4, 5.0, 1.0, (1000.0, 937.0, 833.0, 625.0)
    )  # as a public model has them
    assert dataclasses.replace(full, student=rounded).teacher_steps == (0, 12, 24, 36)


def test_step_lists_that_cannot_be_are_refused():
    with pytest.raises(
        UsageError, match=r"times 700 \(nearest 6.*are not among the teacher's 48 steps at shift 5"
    ):
        ODEInit(
            NULL, SelfForcingConfig(step_list=(1000.0, 700.0)).sampler, ODEConfig().sampler(5.0)
        )
    with pytest.raises(UsageError, match=r"times_at_once 3 does not divide the student's 4 times"):
        ODEInit(NULL, SelfForcingConfig().sampler, ODEConfig().sampler(5.0), times_at_once=3)
    with pytest.raises(UsageError, match=r"step_list must fall from at most 1000 to above 0"):
        tiny_config(
            stage="ode_init",
            teacher="somewhere",
            self_forcing=SelfForcingConfig(step_list=(500.0, 900.0)),
        )


def test_the_loss_is_the_distance_of_the_students_guess_to_the_end(nets, batch, trajectory):
    transformer, text_encoder = nets
    # Zeroed, the student says velocity 0: its guess is the point itself.
    still = jax.tree.map(lambda leaf: leaf, transformer)
    still.head = jax.tree.map(np.zeros_like, transformer.head)
    trajectory = jax.tree.map(np.asarray, trajectory)
    parts = [*trajectory.points, trajectory.end, batch["latents"]]
    stored = {
        **batch,
        "latents": np.concatenate(parts, axis=1),
        "shot_of_chunk": np.tile(batch["shot_of_chunk"], len(parts)),
    }
    loss = jax.jit(
        jax.value_and_grad(ode_init_loss(dataclasses.replace(TASK, stored=True)), has_aux=True)
    )
    (value, metrics), gradient = loss(
        {"student": still}, {"text_encoder": text_encoder}, stored, KEY
    )
    wanted = np.mean(np.square(trajectory.points - trajectory.end), axis=(1, 2, 3, 4, 5))
    np.testing.assert_allclose(
        [metrics[f"x0_t{t}"][0] for t in (1000, 909, 714)], wanted, rtol=1e-4
    )
    assert float(value) == pytest.approx(float(np.mean(wanted)), rel=1e-4)
    assert np.abs(gradient["student"].head.weight[...]).max() > 0


@pytest.mark.parametrize("at_once", [None, 1])
def test_all_times_are_the_passes_one_by_one(at_once, nets, batch, trajectory):
    """A noisy segment sees clean history and itself.

    Neither the other times' segments nor a clean copy of its own chunk change it.
    """
    task = dataclasses.replace(TASK, times_at_once=at_once)
    transformer, text_encoder = nets
    clean, shots, ids, points = jax.device_put(
        (batch["latents"], batch["shot_of_chunk"], batch["token_ids"], trajectory.points)
    )
    text = jax.jit(lambda encoder, ids: encoder(ids, ids != 0))(text_encoder, ids)
    weight = np.random.default_rng(3).standard_normal(points.shape, np.float32)

    @jax.jit
    def together(model):
        velocity, pull = jax.vjp(
            lambda model: student_velocity(task, model, clean, points, text, shots), model
        )
        return velocity, pull(weight)[0]

    @jax.jit
    def alone(model, x, t, weight):
        forced = lambda model: teacher_forced(model, clean, x, t, text, shots, TASK.passes)
        velocity, pull = jax.vjp(forced, model)
        return velocity, pull(weight)[0]

    velocity, gradient = together(transformer)
    each = [
        alone(transformer, x, np.float32(t), w)
        for x, t, w in zip(np.asarray(points), TASK.times, weight, strict=True)
    ]
    assert relative(velocity, np.stack([v for v, _ in each])) <= 1e-5
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    assert relative(flat(gradient), sum(flat(g) for _, g in each)) <= 1e-5


def making(count: int, teacher: str = "0", batch: int = 1) -> TrajectorySettings:
    return TrajectorySettings(count, seed=0, source={"teacher_sha256": teacher}, batch=batch)


@pytest.mark.parametrize("at_once", [1, 2])
def test_stored_trajectories_are_those_on_the_fly(
    at_once, nets, films, batch, trajectory, tmp_path
):
    """However many are made at once, by however many devices."""
    store = write_trajectories(tmp_path / "made", films, TASK, nets, making(2, batch=at_once))
    assert store.spec == trajectory_spec(films, TASK, making(2))
    assert store.spec.latent_frames == 9 * 5
    records = [store[i] for i in range(2)]
    film, stored = split_record(
        {name: np.stack([record[name] for record in records]) for name in records[0]}, 3
    )
    for name, value in batch.items():
        np.testing.assert_array_equal(film[name], value)
    for a, b in (
        (stored.points, trajectory.points),
        (stored.end, trajectory.end),
    ):  # but for the store's float16
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())


def without_teacher(monkeypatch) -> None:
    """Trajectories stay at their films."""
    made = lambda task, teacher, text_encoder, batch, noise: Trajectory(
        jnp.stack([batch["latents"]] * 3), batch["latents"]
    )
    monkeypatch.setattr(trajectory_store, "teacher_trajectory", made)


def test_trajectories_are_made_once(nets, films, tmp_path, monkeypatch, capsys):
    without_teacher(monkeypatch)
    monkeypatch.setattr(trajectory_store, "SHARD", 2)
    write, calls = trajectory_store.LatentStoreWriter.write, []

    def fails_at_the_second(self, part, records):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, part, records)

    monkeypatch.setattr(trajectory_store.LatentStoreWriter, "write", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_trajectories(tmp_path / "made", films, TASK, nets, making(3))
    assert partial_path(tmp_path / "made").is_dir()
    capsys.readouterr()
    store = write_trajectories(tmp_path / "made", films, TASK, nets, making(3))
    assert calls == [range(0, 2), range(2, 3), range(2, 3)] and len(store) == 3
    first, last = capsys.readouterr().err.strip().split("\r")  # it goes on from two of three
    assert " 2/3 [00:00, ETA ?" in first and " 3/3 [00:00, ETA 00:00, " in last
    np.testing.assert_array_equal(store[2]["latents"], np.tile(films[2]["latents"], (5, 1, 1, 1)))
    other = r"was made with other settings: source is.* another --config\.ode\.store"
    with pytest.raises(UsageError, match=other):
        write_trajectories(tmp_path / "made", films, TASK, nets, making(3, teacher="1"))
    with pytest.raises(UsageError, match=r"ode\.films 4 is more than the 3 films"):
        write_trajectories(tmp_path / "more", films, TASK, nets, making(4))


def test_a_damaged_film_costs_no_store(nets, tmp_path, monkeypatch):
    """The next readable film takes its place, as in training."""
    without_teacher(monkeypatch)
    films = tiny_store(tmp_path / "films", films=3)
    damage(films, film=1, chunk=0)
    films = LatentStore.open(films.path)
    some = dataclasses.replace(making(3), max_bad_fraction=0.4)
    store = write_trajectories(tmp_path / "made", films, TASK, nets, some)
    for number, film in enumerate((0, 2, 2)):
        whole = np.tile(films[film]["latents"], (5, 1, 1, 1))
        np.testing.assert_array_equal(store[number]["latents"], whole)
    with pytest.raises(DataError, match="1 of 3 records cannot be read"):
        write_trajectories(tmp_path / "none", films, TASK, nets, making(3))


def test_a_program_is_checked_before_it_makes_a_trajectory(nets, films, tmp_path, monkeypatch):
    without_teacher(monkeypatch)

    def check(program):
        raise UsageError(f"needs {working_bytes(program)} bytes")

    with pytest.raises(UsageError, match=r"needs \d+ bytes"):
        write_trajectories(tmp_path / "made", films, TASK, nets, making(3), check)
    assert (
        len(
            missing_shards(partial_path(tmp_path / "made"), trajectory_spec(films, TASK, making(3)))
        )
        == 1
    )
