"""Packs what a rented machine lacks: wheels for its Python, and a script that sets its paths."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import REPOSITORY
from benchmarks.bench import made
from causalcine_jax.errors import DataError, UsageError, shown
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.output import remove_files

# Not in the usual images of CUDA, torch and jax. All that they need is either there or named here.
PACKAGES = (
    *("anyascii", "annotated-types", "array-record", "diffusers", "etils", "flax", "ftfy", "grain"),
    *("ml-dtypes", "orbax-checkpoint", "portpicker", "pydantic", "pydantic-core"),
    *("typing-extensions", "typing-inspection", "wcwidth"),
)
FILMS = ("av",)  # only to write films; 30 MB and more
# pip takes a wheel only if its tag is one of these exactly.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64", "any"]
ENVIRONMENT = """\
# source half-hour/environment.sh: installs the wheels into a folder of their own, once.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=${CAUSALCINE_SITE:-/tmp/causalcine-site}-WHEELS
[ -d "$site" ] || python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" \\
  "$here"/wheels/*.whl || return 1
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
"""


def prepare(out: Path, python: str, films: bool) -> int:
    """Downloads the wheels and writes environment.sh into `out`; returns their bytes.

    Wheels of an earlier call are removed: pip refuses a second version, or another Python's.

    Raises:
      UsageError: `python` is no version.
      DataError: pip finds no wheel, or `out` cannot be written.
    """
    if not re.fullmatch(r"3\.\d+", python):
        raise UsageError(f"--python must be a version such as 3.12, not {shown(python)}")
    wheels, names = made(out / "wheels"), [*PACKAGES, *(FILMS if films else ())]
    remove_files(wheels, ("*.whl",))
    pinned = _pinned(python)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(wheels)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [word for name in PLATFORMS for word in ("--platform", name)]
    done = subprocess.run(
        [*command, *(pinned.get(name, name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DataError(f"pip cannot download the wheels: {' '.join(lines) or done.stderr[-300:]}")
    files = sorted(wheels.iterdir())
    # A folder of their names: what other wheels were installed into is not used again.
    these = hashlib.sha256(" ".join(file.name for file in files).encode()).hexdigest()[:12]
    write_text(out / "environment.sh", ENVIRONMENT.replace("WHEELS", these))
    return sum(file.stat().st_size for file in files)


def _pinned(python: str) -> dict[str, str]:
    """name -> name==version, as constraints.txt has it for that Python."""
    newer, found = tuple(map(int, python.split("."))) >= (3, 12), {}
    for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        if "==" in requirement and (not marker or (">=" in marker) == newer):
            found[requirement.partition("==")[0].strip()] = requirement.strip()
    return found
