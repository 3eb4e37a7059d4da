"""Compiled programs are kept by default, in a bounded folder; failures cost one line of output."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from heavy_imports import heavy_imports
from repository import ROOT

from causalcine_jax.errors import UsageError
from causalcine_jax.utils import compile_cache
from causalcine_jax.utils.compile_cache import chosen_compile_cache, shrink

# Compiles one program, and prints whether jax found it on disk.
PROGRAM = """
import sys
from causalcine_jax.utils.compile_cache import keep_compiled
before = "--before" in sys.argv
if not before:
    import jax
keep_compiled(*eval(sys.argv[1]))
import jax, jax.numpy as jnp
found = []
hit = lambda event, **_: found.append(event) if event.endswith("cache_hits") else None
jax.monitoring.register_event_listener(hit)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: 3 * x + 1)(jax.device_put(2.0)), len(found))
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The environment of a user with an empty home and no settings for jax."""
    for name in (
        "COMPILATION_CACHE_DIR",
        "ENABLE_COMPILATION_CACHE",
        "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    ):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def start(arguments: str = "()", *more: str) -> tuple[str, list[str]]:
    """(stdout, lines of stderr) of a new process."""
    command = [sys.executable, "-c", PROGRAM, arguments, *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.splitlines()


def entries(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*-cache") if file.is_file())


def test_the_next_start_finds_what_this_one_compiled_and_a_damaged_entry_costs_one_line(
    environment,
):
    assert start() == ("7.0 0", [])
    (folder,) = {file.parent for file in entries(environment / "cache")}
    assert (
        str(folder) == chosen_compile_cache().folder
        and stat.S_IMODE(folder.stat().st_mode) == 0o700
    )
    assert start("()", "--before") == ("7.0 1", [])
    for file in entries(folder):
        file.write_bytes(b"no program")
    printed, (line,) = start()
    assert printed == "7.0 0" and line.startswith(
        f"note: the compiled programs in {folder} cannot all be read ("
    )
    assert start() == ("7.0 1", [])  # compiled again


def test_another_folder_and_none_at_all(environment):
    assert start(f"({str(environment / 'mine')!r},)") == ("7.0 0", [])
    assert entries(environment / "mine") and not (environment / "cache").exists()
    before = entries(environment)
    assert start("(None, True)") == ("7.0 0", []) and entries(environment) == before


def test_two_processes_at_once(environment):
    command = [sys.executable, "-c", PROGRAM, "()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].split()[0] for process in both] == ["7.0", "7.0"]
    assert start()[0] == "7.0 1"


def test_a_folder_that_cannot_be_written_is_reported_once(environment, monkeypatch):
    (environment / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(environment / "file"))
    printed, (line,) = start()
    assert (
        printed == "7.0 0"
        and line.startswith("note: compiled programs are not kept: ")
        and "cannot be written" in line
    )


def test_other_peoples_programs_are_not_run(environment, monkeypatch):
    folder = environment / "theirs"
    folder.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(compile_cache.os, "geteuid", lambda: folder.stat().st_uid + 1)
        cache = chosen_compile_cache(folder)
    assert (
        cache.folder is None
        and cache.in_words() == f"compiled programs are not kept: {folder} belongs to another user"
    )
    folder.chmod(0o777)
    assert chosen_compile_cache(folder).fault == f"{folder} can be written by all users"


def test_which_cache_in_words(environment, monkeypatch):
    assert (
        chosen_compile_cache(off=True).in_words()
        == "compiled programs are not kept: --no-compile-cache"
    )
    (environment / "mine").mkdir()
    (environment / "mine" / "a-cache").write_bytes(bytes(1_500_000))
    words = chosen_compile_cache(environment / "mine").in_words()
    assert (
        words == f"compiled programs are kept in {environment / 'mine'} (--compile-cache), 1.5 MB"
    )
    # jax accesses it, not this package.
    assert chosen_compile_cache("gs://bucket/programs").folder == "gs://bucket/programs"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert (
        chosen_compile_cache().in_words()
        == "compiled programs are kept in elsewhere (JAX_COMPILATION_CACHE_DIR), 0.0 MB"
    )
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    assert (
        chosen_compile_cache().in_words()
        == "compiled programs are not kept: JAX_ENABLE_COMPILATION_CACHE=false"
    )
    (environment / "file").touch()
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
    with pytest.raises(UsageError, match="file is a file: name a folder"):
        chosen_compile_cache(environment / "file")


def test_the_least_recently_used_programs_are_removed_first(tmp_path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "jit_f-cache").write_bytes(bytes(1000))
        os.utime(tmp_path / name / "jit_f-cache", (1e9 - age, 1e9 - age))
    shrink(tmp_path, 2500)
    assert [file.parent.name for file in entries(tmp_path)] == ["middle", "newest"]
    shrink(tmp_path, 2500)
    assert len(entries(tmp_path)) == 2


REFUSED = {
    "a story": ("generate.py", "--story", "nowhere.yaml", "--out", "film"),
    "a flag": ("generate.py", "--nonsense"),
    "a world": ("evaluate.py", "--world", "bass"),
    "films": ("encode.py", "--model", "m", "--out", "films", "--films", "0"),
    "a config": ("train.py", "--config", "nowhere.py"),
    "no config": ("train.py",),
    "a scale": ("experiments.py", "--scale", "bass"),
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED)
def test_refusals_do_not_wait_for_jax(command):
    script, *arguments = command
    heavy, done = heavy_imports([f"launch/{script}", *arguments], ROOT)
    assert not heavy and done.returncode == 2, done.stderr


def test_every_folder_on_the_way_is_private(tmp_path):
    """The umask of accounts with a group of their own would let the group write to those above."""
    before = os.umask(0o002)
    try:
        compile_cache.make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700, folder
