"""How much memory this machine has, and how much is free, within a container's limit.

A container or a batch system limits memory by a control group (cgroup), and ends a process that
takes more. /proc/meminfo tells of the whole machine.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

GB = 10**9
ROOT = Path("/")  # tests put other files there
# Files of version 2 and 1: the limit, what is taken, and what of that is cache to be given back.
V2 = "memory.max", "memory.current", ("inactive_file", "active_file")
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def machine_size() -> int | None:
    """Bytes of the machine's memory; None where it is unknown."""
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def memory_size() -> int | None:
    """Bytes that this process may use; None where it is unknown."""
    sizes = machine_size(), *(limit for limit, _ in _limits())
    return min((size for size in sizes if size), default=None)


def free_memory() -> int | None:
    """Bytes that this process can still take, free swap included; None where it is unknown."""
    told = dict(
        re.findall(r"^(MemAvailable|SwapFree):\s+(\d+) kB$", _text(ROOT / "proc/meminfo"), re.M)
    )
    if "MemAvailable" not in told:
        return None
    room = 1024 * sum(map(int, told.values()))
    return min((room, *(max(0, limit - taken) for limit, taken in _limits())))


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes taken) of each control group that this process is in and that has a limit."""
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            top, files = ROOT / "sys/fs/cgroup", V2
        elif "memory" in controllers.split(","):
            top, files = ROOT / "sys/fs/cgroup/memory", V1
        else:
            continue
        group = Path(path.lstrip("/"))
        # Up to the top: in a container the path may be the host's, and the files those of the top.
        for folder in (top / group, *(top / each for each in group.parents)):
            limit, taken = _text(folder / files[0]).strip(), _text(folder / files[1]).strip()
            if limit.isdigit() and taken.isdigit():
                names = "|".join(files[2])
                cache = re.findall(rf"^(?:{names}) (\d+)$", _text(folder / "memory.stat"), re.M)
                yield int(limit), int(taken) - sum(map(int, cache))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
