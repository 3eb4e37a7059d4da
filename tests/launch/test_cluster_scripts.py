"""The scripts for clusters: what they start, with stand-ins for Slurm and Google's command."""

import os
import shlex
import subprocess

import pytest
import yaml
from repository import ROOT

PRINTS = (
    '#!/bin/sh\necho "cpus=$SRUN_CPUS_PER_TASK port=$JAX_COORDINATOR_PORT"\nprintf "%s\\n" "$@"\n'
)


@pytest.fixture
def start(tmp_path):
    """Runs a script with stand-ins for srun and gcloud, which print what they are given."""
    for name in ("srun", "gcloud"):
        (tmp_path / name).write_text(PRINTS)
        (tmp_path / name).chmod(0o755)

    def run(script, *words, **variables):
        kept = {name: os.environ[name] for name in ("HOME",) if name in os.environ}
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(ROOT / "launch" / script), *words],
            env=kept | {"PATH": path} | variables,
            capture_output=True,
            text=True,
        )

    return run


def test_slurm_gives_every_process_its_cores(start):
    """Since Slurm 22.05 srun does not take them from sbatch's --cpus-per-task."""
    done = start("slurm.sh", "--story", "a b", SLURM_JOB_ID="12345", SLURM_CPUS_PER_TASK="6")
    first, *words = done.stdout.splitlines()
    assert first == "cpus=6 port=22345"
    assert words == [
        "--kill-on-bad-exit=1",
        ".venv/bin/python",
        "launch/train.py",
        "--story",
        "a b",
    ]
    asked = (ROOT / "launch/slurm.sh").read_text()
    assert "#SBATCH --cpus-per-task=8" in asked
    assert start("slurm.sh", SLURM_JOB_ID="1").stdout.startswith("cpus=8 ")
    alone = start("slurm.sh")
    assert alone.returncode != 0 and "start it by sbatch" in alone.stderr


def test_a_tpu_pod_gets_the_words_as_they_were_given(start):
    words = ("--story", "it's one film")
    done = start("tpu_pod.sh", *words, TPU="pod", ZONE="here", COMMAND="generate")
    sent = done.stdout.splitlines()[-1].removeprefix("--command=")
    assert shlex.split(sent.split("launch/generate.py")[1]) == list(words)
    assert "JAX_COORDINATOR_PORT=8482 " in sent


def test_the_job_on_gke_says_its_number_of_hosts_three_times_alike():
    job = yaml.safe_load((ROOT / "launch/gke.yaml").read_text())
    of_job = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = of_job["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    hosts = of_job["parallelism"]
    assert of_job["completions"] == hosts == int(variables["JAX_NUM_PROCESSES"])
    sides = of_job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns, layers = map(int, sides.split("x"))
    assert rows * columns * layers == hosts * int(
        container["resources"]["limits"]["google.com/tpu"]
    )
    assert (ROOT / container["command"][1]).exists()
