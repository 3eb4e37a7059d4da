"""A command's --out: one writer, checked before the work, nothing left of a lock."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from repository import ROOT

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils import output
from causalcine_jax.utils.atomic_file import atomic_file
from causalcine_jax.utils.output import check_disk, check_renames, one_writer, remove_files

HOLD = """
import sys, time
from causalcine_jax.utils.output import one_writer
with one_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
# Holds and lets go again and again; in between, nobody else may hold.
CONTEND = """
import os, sys
from causalcine_jax.errors import UsageError
from causalcine_jax.utils.output import one_writer
held = 0
while held < 150:
    try:
        with one_writer(sys.argv[1]):
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
            os.unlink(sys.argv[2])
            held += 1
    except UsageError as error:
        assert "is being written by" in str(error), error
"""


def python(script: str, *arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    out = tmp_path / "out"
    holder = python(HOLD, out)
    try:
        assert holder.stdout.readline() == "held\n"
        said = f"{re.escape(str(out))} is being written by process {holder.pid} on .*: wait for it"
        with pytest.raises(UsageError, match=said), one_writer(out):
            raise AssertionError
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (out / ".lock").is_file()
    with one_writer(out):
        assert f"process {os.getpid()} " in (out / ".lock").read_text()
    assert not list(out.iterdir())


def test_processes_that_come_and_go_hold_it_one_at_a_time(tmp_path):
    three = [python(CONTEND, tmp_path / "a" / "out", tmp_path / "busy") for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in three] == [("", 0)] * 3


def test_one_process_does_not_hold_it_twice_but_a_folder_within(tmp_path):
    with (
        one_writer(tmp_path),
        one_writer(tmp_path / "within"),
        pytest.raises(UsageError, match=f"by process {os.getpid()} "),
        one_writer(tmp_path),
    ):
        raise AssertionError
    with one_writer(tmp_path):
        pass


@pytest.mark.parametrize("beside", [False, True])
def test_what_was_made_for_nothing_is_removed(tmp_path, beside):
    out = tmp_path / "a" / "b"
    with one_writer(out, beside=beside):
        assert out.exists() is not beside
        assert [p.name for p in tmp_path.rglob(".*")] == [".b.lock" if beside else ".lock"]
    assert not list(tmp_path.iterdir())
    with one_writer(out):
        (out / "film.mp4").write_text("a film")
    assert [p.name for p in out.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_in_the_way_is_named(tmp_path, beside):
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "film.mp4").mkdir(parents=True)
    for out, said in (
        (tmp_path / "file", r"file is a file, and --out is a folder"),
        (tmp_path / "file" / "out", r"file is a file, and --out is a folder"),
        (tmp_path / "out", r"film\.mp4 is a folder, and a file of this name is written"),
    ):
        with (
            pytest.raises(UsageError, match=rf"{said}: choose another --out"),
            one_writer(out, ("film.mp4",), beside=beside),
        ):
            raise AssertionError


@pytest.fixture
def read_only():
    """A folder in which this process cannot write; root would, so it is nobody meanwhile."""
    folder, is_root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    folder.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_refused(read_only):
    for out in (read_only, read_only / "film"):
        with (
            pytest.raises(UsageError, match=r"cannot write into .* \(Permission denied\): choose"),
            one_writer(out),
        ):
            raise AssertionError


def test_a_full_disk_is_no_wrong_flag(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output.os, "pwrite", full)
        with one_writer(tmp_path / "out"):  # only its holder's name is not written
            pass
        patched.setattr(output.os, "open", full)
        with pytest.raises(DataError, match="No space left on device"):
            one_writer(tmp_path / "out").__enter__()
    assert not list(tmp_path.iterdir())


def test_an_earlier_result_is_refused_or_removed_record_first(tmp_path, monkeypatch):
    files = ("film.json", "film.mp4", "sheet*.png")
    for name in ("sheet-2.png", "sheet.png", "film.mp4", "film.json", "mine.txt"):
        (tmp_path / name).write_text(name)
    said = "holds film.json, film.mp4, sheet-2.png, sheet.png already: choose another --out, or --o"
    with pytest.raises(UsageError, match=said), one_writer(tmp_path, files, overwrite=False):
        raise AssertionError
    removed, unlink = [], Path.unlink
    with one_writer(tmp_path, files, overwrite=True):
        assert len(list(tmp_path.iterdir())) == 6
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", lambda path: (removed.append(path.name), unlink(path)))
            remove_files(tmp_path, files)
    assert removed == ["film.json", "film.mp4", "sheet-2.png", "sheet.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_system_without_locks_is_told_of_and_used(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output.fcntl, "flock", flock)
    with one_writer(tmp_path):
        pass
    said = capsys.readouterr().err
    assert said.startswith("note: no lock is possible for") and "(No locks available)" in said


def test_temporary_files_have_names_of_their_own_and_do_not_pile_up(tmp_path):
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    (tmp_path / "a.4711-0a1b2c3d.tmp").write_text("of a killed process")
    (tmp_path / "mine.tmp").write_text("")
    with one_writer(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a", "mine.tmp"]


def test_too_small_a_disk_is_refused_with_both_numbers(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: usage)
    out = tmp_path / "not" / "there"
    check_disk(10**6, out)
    check_disk(3 * 10**6, out, freed=2 * 10**6)
    said = r"there needs up to 3\.000 MB, .* has 1\.000 MB free; make room or choose another --out"
    with pytest.raises(DataError, match=said):
        check_disk(3 * 10**6, out)


def test_storage_that_cannot_rename_folders_is_refused(tmp_path, monkeypatch):
    check_renames(tmp_path)
    assert not list(tmp_path.iterdir())

    def refused(self, target):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(DataError, match=r"cannot rename folders \(Directory not empty\), so check"):
        check_renames(tmp_path)
    assert not list(tmp_path.iterdir())
