"""Commands that only a checkout has: benchmarks/ and experiments/ are not installed."""

import importlib
import sys
from pathlib import Path

from causalcine_jax import __path__ as PACKAGE
from causalcine_jax.errors import UsageError

FOLDERS = {"bench": "benchmarks", "experiments": "experiments"}


def main(name: str, arguments: list[str]) -> None:
    """Runs the command from a checkout: this package's own, the script's, or the current folder.

    `UsageError` where none of them is one.
    """
    folder = FOLDERS[name]
    script = Path(sys.argv[0]).resolve()  # of launch/
    for root in (Path(PACKAGE[0]).parent, script.parent.parent, Path.cwd()):
        if (root / folder / "command_line.py").is_file() and (root / "pyproject.toml").is_file():
            sys.path.insert(0, str(root))
            importlib.import_module(f"{folder}.command_line").main(arguments)
            return
    raise UsageError(
        f"{name} needs a checkout of the repository, which has {folder}/: "
        f"run `causalcine {name}` there"
    )
