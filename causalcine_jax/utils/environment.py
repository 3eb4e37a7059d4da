"""Where a run takes place: its processes, and what its record says of software and device."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

# One of them is set where several processes are one run or film (parallel/processes.py).
STARTED_BY = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT")
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "av", "pillow")


def one_of_several() -> bool:
    """Whether this process was started as one of several."""
    return any(os.environ.get(name) for name in STARTED_BY)


def software() -> dict[str, Any]:
    """Versions of the packages, and the commit if the package runs from its own checkout."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("causalcine-jax", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {**versions, "commit": commit()}


def commit() -> str | None:
    """The checkout's git commit, with '+changes' if files differ; None for an installed package."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # Fails in an installed package that lies inside another repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def device() -> dict[str, Any]:
    import jax

    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "host": platform.machine(),
    }
