"""The device's memory and what is installed: the head of every command's record."""

import shutil
import subprocess

import jax


def machine() -> dict:
    """Bytes of device memory (None: not counted), versions, and what nvidia-smi says."""
    stats = jax.devices()[0].memory_stats() or {}
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    cards = (
        subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
        if shutil.which(query[0])
        else []
    )
    return {"memory": stats.get("bytes_limit"), "cards": cards}
