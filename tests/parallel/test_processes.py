"""Two processes train as one does, stop together, and refuse different configs.

test_film_processes.py checks films.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import mesh_of_nothing, tiny_folder
from tiny_training import tiny_store
from toy_stage import toy_config, toy_stage
from two_processes import both_ended, two_processes

from causalcine_jax.errors import UsageError
from causalcine_jax.parallel import processes
from causalcine_jax.parallel.mesh import check_batch, own_part
from causalcine_jax.parallel.processes import joined, text_of_first
from causalcine_jax.training.flags import parse
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records

STEPS = 4


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of all runs, and (code, stdout, stderr) of each run's processes."""
    folder = tmp_path_factory.mktemp("processes")
    tiny_store(folder / "store")
    tiny_folder(folder / "init")
    # Only the transformer of a loaded model is trained, which compiles less.
    films = {"init": folder / "init", "train_text_encoder": False, "steps": STEPS}
    # Rollouts of two steps, whose exit must be the same in all processes.
    rollout = {
        "self_forcing.steps": 2,
        "self_forcing.grad_frames": 6,
        "gan.taps": "(1.0,)",
        "generator_every": 2,
        "max_critic_mse": 100.0,
    }
    rates = {
        f"{optim}.{name}": value
        for optim in ("optim", "critic_optim")
        for name, value in (("schedule", "constant"), ("warmup", 0))
    }
    student = {"stage": "dmd", "teacher": folder / "init", "steps": 3, **rollout, **rates}

    def flags(name: str, **settings) -> list[str]:
        settings |= {"out": folder / name, "data.store": folder / "store", "log_every": 1}
        return [
            "--config=tests/support/tiny_training.py",
            *(f"--config.{key}={value}" for key, value in settings.items()),
        ]

    started = {
        "films": two_processes("launch/train.py", *flags("films", **films, seq=2), devices=1),
        "student": two_processes("launch/train.py", *flags("student", **student), devices=1),
        "toy": two_processes("tests/support/as_two_processes.py", str(folder / "toy"), devices=2),
    }
    train(parse(flags("films_alone", **films))[0])
    train(parse(flags("student_alone", **student))[0])
    train(toy_config(folder / "toy_alone", log_every=1), toy_stage())
    return folder, {name: both_ended(pair) for name, pair in started.items()}


def losses(out: Path) -> np.ndarray:
    return np.array([record["loss"] for record in read_records(out / "metrics.jsonl")])


def weights(model: Path) -> dict[str, np.ndarray]:
    files = [
        file
        for part in ("transformer", "text_encoder")
        for file in (model / part).glob("*.safetensors")
    ]
    return {
        f"{file.parent.name}.{key}": tensor
        for file in files
        for key, tensor in load_file(file).items()
    }


@pytest.mark.slow
def test_a_film_shared_by_two_processes_is_trained_on_as_by_one(ended):
    folder, codes = ended
    assert [code for code, _, _ in codes["films"]] == [0, 0], codes["films"]
    assert losses(folder / "films").shape == (STEPS,)
    np.testing.assert_allclose(losses(folder / "films"), losses(folder / "films_alone"), rtol=1e-5)
    together, alone = weights(folder / "films" / "model"), weights(folder / "films_alone" / "model")
    assert together.keys() == alone.keys()
    for key, wanted in alone.items():
        # By norm, because AdamW amplifies elements whose gradient is almost zero.
        assert np.linalg.norm(together[key] - wanted) <= 1e-4 * np.linalg.norm(wanted), key
    (_, first_out, first_err), (_, second_out, second_err) = codes["films"]
    assert '"seq": 2' in first_out and "step 4/4" in first_err
    assert '"seq"' not in second_out and "step" not in second_err


@pytest.mark.slow
def test_a_student_is_distilled_by_two_processes_as_by_one(ended):
    folder, codes = ended
    assert [code for code, _, _ in codes["student"]] == [0, 0], codes["student"]
    together, alone = (
        list(read_records(folder / name / "metrics.jsonl")) for name in ("student", "student_alone")
    )
    assert ["generator_loss" in record for record in together] == [True, False, True]
    for ours, wanted in zip(together, alone, strict=True):
        losses = [key for key in wanted if "loss" in key or "mse" in key or key.startswith("x0")]
        assert {"critic_loss", "critic_mse"} <= set(losses)
        for key in losses:
            assert ours[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-6), key


@pytest.mark.slow
def test_both_stop_after_the_same_step_and_continue(ended):
    folder, codes = ended
    reports = [
        json.loads(line)
        for _, out, _ in codes["toy"]
        for line in out.splitlines()
        if line.startswith("[") and "Gloo" not in line
    ]
    # The signal came in step 5; the flag gathered then was read two steps later.
    assert reports == [[7, 12], [7, 12]], codes["toy"]
    assert sorted(path.name for path in (folder / "toy" / "checkpoints").iterdir()) == ["12", "8"]
    np.testing.assert_allclose(losses(folder / "toy"), losses(folder / "toy_alone"), rtol=1e-5)
    assert np.load(folder / "toy" / "weights.npy").shape == (8, 8)


@pytest.mark.slow
def test_different_configs_are_named_by_all(ended):
    folder, codes = ended
    for code, _, errors in codes["toy"]:
        assert code == 2, errors
        fault = "optim.lr is 0.1 in process 0 and 0.2 in process 1"
        assert f"error: the processes were not started alike: {fault}\n" in errors
        assert "Traceback" not in errors
    assert not (folder / "toy" / "other").exists()


def test_only_the_first_process_makes_a_text_that_all_get(monkeypatch):
    assert text_of_first(lambda: "alone") == "alone"
    gathered = iter([["null", "null"], ["a hash", ""]])  # no error, then the text
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "all_gather_text", lambda own: next(gathered))

    def work():
        raise AssertionError("not here")

    assert text_of_first(work) == "a hash"


def test_a_folder_that_another_process_does_not_see_is_refused(monkeypatch, tmp_path):
    processes.check_shared(tmp_path / "nothing is looked at alone", "out")
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "all_gather_text", lambda own: [own])
    processes.check_shared(tmp_path, "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(processes, "text_of_first", lambda work: ".shared-elsewhere")
    with pytest.raises(UsageError, match="is not there: choose an out that all processes share"):
        processes.check_shared(tmp_path, "out")


def test_sizes_that_processes_do_not_divide_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    with pytest.raises(
        UsageError,
        match="6 films cannot be split over 12 devices of 3 processes: make batch a multiple of 12",
    ):
        check_batch(mesh_of_nothing(12, 1), 6, 1)
    with pytest.raises(
        UsageError,
        match="seq=3 cannot be made of processes with 4 devices each: seq can be 1, 2, 4 or 12",
    ):
        own_part(mesh_of_nothing(4, 3))


def test_half_an_environment_is_named(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with (
        pytest.raises(
            UsageError,
            match=r"'two'.*JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        ),
        joined(),
    ):
        pass
