"""What a command imports, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from repository import ROOT

# Importing jax takes longer than everything that help and refusals do.
HEAVY = {
    "jax", "flax", "optax", "orbax", "scipy", "matplotlib", "av", "grain", "tensorstore", "ftfy",
    "tokenizers",
}  # fmt: skip
_IMPORT = "import time:"  # how python's report of an import begins


def heavy_imports(words: list[str], cwd: Path) -> tuple[set[str], subprocess.CompletedProcess]:
    """Runs python with these words; (its heavy imports, the process that ended).

    The stderr of the process is without python's lines about imports.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
    )
    lines = done.stderr.splitlines(keepends=True)
    # import time: self [us] | cumulative | imported package
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in lines
        if line.startswith(_IMPORT)
    }
    assert "causalcine_jax" in imported, done.stderr
    done.stderr = "".join(line for line in lines if not line.startswith(_IMPORT))
    return HEAVY & imported, done
