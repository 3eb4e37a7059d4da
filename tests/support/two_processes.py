"""Runs a command as two processes of one run, on this machine's CPU."""

import os
import socket
import subprocess
import sys

from repository import ROOT


def two_processes(*command: str, devices: int) -> list[subprocess.Popen]:
    """Starts both, each with `devices` CPU devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
        "NPROC": "16",  # launch/train.py sets it too
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    start = lambda number: subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment, "JAX_PROCESS_ID": str(number)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return [start(number) for number in range(2)]


def both_ended(pair: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Waits for both; returns (code, stdout, stderr) of each."""
    outputs = [process.communicate(timeout=600) for process in pair]
    return [(process.returncode, *texts) for process, texts in zip(pair, outputs, strict=True)]
