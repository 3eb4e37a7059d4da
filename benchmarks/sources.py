"""Which code a number was measured by: versions, commit, and a digest of the source files.

A rented machine may have no .git, and so no commit. The digest still tells other code apart, also
where files differ from the commit.
"""

import hashlib
import os
import shlex
import sys
from typing import Any

from benchmarks import REPOSITORY
from causalcine_jax.utils import environment

FOLDERS = ("benchmarks", "causalcine_jax", "configs", "tests")
SUFFIXES = (".py", ".h", ".cc")


def software() -> dict:
    """`environment.software`, and `sources`. Where two are equal, the same code measured."""
    return environment.software() | {"sources": _digest()}


def run_context() -> dict[str, Any]:
    """The context of a record's numbers: the command, device, cores and software."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "device": environment.device(),
        "cores": os.cpu_count(),
        "software": software(),
    }


def _digest() -> str:
    files = (
        file
        for folder in FOLDERS
        for file in (REPOSITORY / folder).rglob("*")
        if file.suffix in SUFFIXES
    )
    named = hashlib.sha256()
    for name, file in sorted((file.relative_to(REPOSITORY).as_posix(), file) for file in files):
        named.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return named.hexdigest()[:16]
