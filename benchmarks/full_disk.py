"""Commands whose disk is full at a random moment: one line says so, and nothing is half-written.

--out lies on a file system in memory, in a mount namespace of the command's own (`unshare`, which
Linux allows without rights). Its size is a random part of what the command writes. What is then
there is copied out, and the command is given again on the copy.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.kills import PATIENCE, after_end, commands, finish, started
from causalcine_jax.errors import UsageError

TRACEBACK = "Traceback (most recent call last)"
PAGE = 4096
SCRIPT = (
    'place="$1"; keep="$3"; mkdir "$1" && mount -t tmpfs -o size="$2" tmpfs "$1" || exit 99; '
    'shift 3; "$@"; code=$?; cp -a "$place" "$keep"; exit $code'
)


def full_disk(count: int, seed: int, say: Callable[[str], None]) -> dict:
    """`count` runs, of all commands in turn, on disks that are too small."""
    _check_unshare()
    rng, faults, codes = Random(seed), [], {}
    with tempfile.TemporaryDirectory(prefix="disk.") as scratch:
        folder = Path(scratch)
        tried, sound, sizes = commands(folder), {}, {}
        for name, command in tried.items():
            out = folder / f"{name}-sound"
            finish(command.words(out))
            sound[name] = command.digest(out)
            sizes[name] = sum(f.stat().st_size + PAGE for f in out.rglob("*"))
        for number in range(count):
            name = list(tried)[number % len(tried)]
            size = round(rng.uniform(0.02, 0.98) * sizes[name] / PAGE) * PAGE
            fault, code = _try(tried[name], folder / f"{name}-{number}", size, sound[name])
            codes.setdefault(name, []).append(code)
            if fault:
                faults.append({"command": name, "bytes": size, "of": sizes[name], "fault": fault})
                say(f"disk: {faults[-1]}")
    return {
        "count": count,
        "seed": seed,
        "exit_codes": codes,
        "faults": faults,
        "summary": ", ".join(f"{name} {len(each)}" for name, each in codes.items()),
    }


def _try(command, place: Path, size: int, sound: str) -> tuple[str | None, int]:
    """What is wrong with a run on a disk of `size` bytes at `place`, and its exit code."""
    keep, out = place.with_name(f"{place.name}.kept"), place / "out"
    inside = ("sh", "-c", SCRIPT, "sh", str(place), str(size), str(keep))
    process = started(command.words(out), (*UNSHARE, *inside))
    _, said = process.communicate(timeout=PATIENCE)
    last = " ".join(said.split())[-200:]
    if process.returncode == 99:
        raise UsageError(f"no file system of {size} bytes can be made here: {last}")
    if TRACEBACK in said:
        return f"traceback: {last}", process.returncode
    place.rmdir()
    keep.rename(place)
    return after_end(command, out, sound), process.returncode


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def _check_unshare() -> None:
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"]).returncode:
        raise UsageError("disk needs unshare and user namespaces, which Linux has: leave it out")
