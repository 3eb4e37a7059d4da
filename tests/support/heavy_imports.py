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
_LAST = "heavy:"


def heavy_imports(script: str, arguments: list[str], cwd: Path) -> tuple[set[str], int, str]:
    """Runs a script file, or `-m` and a module; (its heavy imports, exit code, what it said)."""
    run = "run_module" if script.startswith("-m") else "run_path"
    program = f"""
import runpy, sys
sys.argv = {[script, *arguments]}
code = 0
try:
    runpy.{run}({script.removeprefix("-m ")!r}, run_name="__main__")
except SystemExit as ended:
    code = ended.code or 0
print({_LAST!r}, *({HEAVY} & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
    )
    *_, last = done.stdout.splitlines() or [""]
    assert last.startswith(_LAST), done.stdout + done.stderr
    return set(last.split()[1:]), done.returncode, done.stderr
