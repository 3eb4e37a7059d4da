"""Fills a command's disk at a random moment, makes room afterwards, and gives the command again.

The out lies on a tmpfs of its own, which is mounted for each run: this needs root, or a user
namespace (`unshare --user --map-root-user --mount causalcine bench reliability ...`). The disk has
room when the command begins, so that it is not refused at once. A file then takes all of it.
"""

import contextlib
import errno
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from benchmarks.disturbed import (
    TRACEBACK,
    Command,
    Undisturbed,
    fault_after,
    moment,
    undisturbed,
)
from benchmarks.fuzz import keep
from benchmarks.kills import TRIES, until_stopped
from benchmarks.tried_commands import commands
from causalcine_jax.errors import UsageError

DISK_BYTES = 64 * 2**20
SAID = ("No space left on device", "not enough room on the disk", "the disk is full")


def full_disk(
    count: int,
    seed: int,
    failed: Path | None,
    say: Callable[[str], None],
    only: tuple[str, ...] = (),
) -> dict:
    """`count` runs, of all commands in turn, whose disk becomes full. Arguments as of `kills`."""
    rng, faults = Random(seed), []
    codes: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="disk.") as scratch:
        folder = Path(scratch)
        with _disk(folder / "probe"):
            pass
        tried = commands(folder)
        order = only or tuple(tried)
        sound = {name: undisturbed(tried[name], folder / f"sound-{name}") for name in order}
        for number in until_stopped(count):
            name = order[number % len(order)]
            place = folder / f"{number}-{name}"
            for _ in range(TRIES):
                with _disk(place):
                    alive, code, fault = _fill_during(tried[name], place, sound[name], rng)
                    fault = fault or fault_after(tried[name], place, sound[name], code)
                    if fault:
                        keep(place, failed, place.name)
                if alive or fault:
                    break
            codes.setdefault(name, []).append(code)
            if fault:
                faults.append({"command": name, "fault": fault})
            say(f"full_disk: {number + 1} of {count}: {name} {code} {fault or 'held'}")
    return {
        "count": sum(map(len, codes.values())),
        "seed": seed,
        "disk": f"a tmpfs of {DISK_BYTES >> 20} MiB for each run, filled by a file",
        "exit_codes": codes,
        "faults": faults,
        "summary": ", ".join(f"{name} {len(each)}" for name, each in codes.items()),
    }


def _fill_during(
    command: Command, place: Path, sound: Undisturbed, rng: Random
) -> tuple[bool, int, str | None]:
    """Whether a run's disk became full while it ran, its exit code, and what is wrong with it."""
    running = command.start(place)
    alive = running.until(moment(rng, sound, running))
    ballast = place / "ballast"
    fill(ballast)
    code, said = running.ended()
    ballast.unlink()
    last = " ".join(said.split())[-300:]
    if TRACEBACK in said or code not in (0, 1):
        return alive, code, f"ended with code {code}: {last}"
    if code == 1 and not any(words in said for words in SAID):
        return alive, code, f"does not say that the disk is full: {last}"
    return alive, code, None


def fill(file: Path) -> None:
    """Writes a file that takes all room of its disk."""
    with open(file, "wb", buffering=0) as ballast:
        for block in (bytes(2**20), bytes(2**12)):
            try:
                while ballast.write(block):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(
            f"full_disk cannot mount a tmpfs ({done.stderr.strip()}): run it as root, or after "
            "unshare --user --map-root-user --mount"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
