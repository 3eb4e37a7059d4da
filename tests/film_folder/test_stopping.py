"""Films that end early, and folders that hold a film: nothing lost, nothing silent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from repository import ROOT
from tiny_models import tiny_folder

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.film_folder import generate as generation
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import prompt_recipe, read_recipe
from causalcine_jax.render.mp4 import read_film
from causalcine_jax.utils import output
from causalcine_jax.utils.output import one_writer

RECIPE = prompt_recipe("Mia waves.")
SHORT = Choices(frames=21, steps=1, guidance=1.0, solver="euler", policy="none")
WHOLE = ["contact_sheet.png", "film.json", "film.mp4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


def names(out):
    return sorted(path.name for path in out.iterdir())


def film(folder, out, **options):
    return generate(RECIPE, out, model=folder, **{"choices": SHORT, "progress": False} | options)


@pytest.fixture
def made(folder, tmp_path):
    record = film(folder, tmp_path / "made")
    assert names(tmp_path / "made") == WHOLE
    return tmp_path / "made", record


def launch(folder, out, *flags) -> subprocess.Popen:
    """A film of ten minutes."""
    asked = ("--prompt", "Mia waves.", "--frames", 9597, "--policy", "none", "--pool-frames", 12)
    return subprocess.Popen(
        [sys.executable, "launch/generate.py", "--model", folder, "--out", out]
        + [str(flag) for flag in (*asked, *flags)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_film_is_refused_and_sigterm_leaves_the_first_playable(folder, tmp_path):
    out, unfinished = tmp_path / "film", tmp_path / "film" / "film.unfinished.mp4"
    first = launch(folder, out)
    try:
        while first.poll() is None and not (unfinished.exists() and unfinished.stat().st_size):
            time.sleep(0.05)
        second = launch(folder, out)
        _, said = second.communicate(timeout=300)
        assert second.returncode == 2 and said.count("\n") == 1
        assert f"is being written by process {first.pid} on" in said
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 75 and "Traceback" not in said
    kept, go_on, stopped = said.splitlines()[-3:]
    assert stopped == "stopped before the film's end"
    assert go_on == f"go on with it: causalcine film --resume {out}"
    count = len(read_film(unfinished))
    assert kept == f"kept: {unfinished}, {count} of 9597 frames" and count >= 9
    assert names(out) == ["film.unfinished.mp4", "unfinished"]
    with pytest.raises(UsageError, match=r"holds an unfinished film: go on .* --resume"):
        film(folder, out)
    assert names(out) == ["film.unfinished.mp4", "unfinished"]
    record = film(folder, out, overwrite=True)
    assert names(out) == WHOLE and json.loads((out / "film.json").read_text()) == record


@pytest.mark.parametrize(
    ("stop", "raised"), [(KeyboardInterrupt, StoppedEarly), (RuntimeError, RuntimeError)]
)
def test_what_was_filmed_before_an_exception_is_kept(
    stop, raised, folder, tmp_path, monkeypatch, capsys
):
    class Stopping(generation.Director):
        def __next__(self):
            if self.next_chunk == 1:
                raise stop
            return super().__next__()

    with monkeypatch.context() as patched, pytest.raises(raised):
        patched.setattr(generation, "Director", Stopping)
        film(folder, tmp_path)
    assert names(tmp_path) == ["film.unfinished.mp4", "unfinished"]
    assert len(read_film(tmp_path / "film.unfinished.mp4")) == 9
    assert "film.unfinished.mp4, 9 of 21 frames" in capsys.readouterr().err


@pytest.mark.parametrize("at", ["opening_lines", "Director.__next__"])
def test_a_stop_before_the_first_frame_keeps_and_leaves_nothing(folder, tmp_path, monkeypatch, at):
    def stop(*of):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{generation.__name__}.{at}", stop)
    with pytest.raises(KeyboardInterrupt) as raised:
        film(folder, tmp_path / "film")
    assert raised.type is KeyboardInterrupt and not (tmp_path / "film").exists()


def test_a_finished_film_is_refused_unless_it_is_to_be_replaced(
    made, folder, tmp_path, monkeypatch
):
    out, record = made
    before = {name: (out / name).read_bytes() for name in WHOLE}
    said = r"made holds film\.json, film\.mp4, contact_sheet\.png already: choose another --out"
    with pytest.raises(UsageError, match=said):
        film(folder, out)
    with pytest.raises(UsageError, match="steps must be"):
        film(folder, out, choices=Choices(steps=0), overwrite=True)
    assert {name: (out / name).read_bytes() for name in WHOLE} == before
    (out / "contact_sheet-2.png").write_text("of a longer film")
    (out / "memory.png").write_text("of a film with memory")
    shoot = generation.shoot

    def watched(*arguments):
        assert names(out) == [
            ".lock",
            "unfinished",
        ]  # no kill from here on leaves the earlier record
        return shoot(*arguments)

    monkeypatch.setattr(generation, "shoot", watched)
    again = film(folder, out, choices=Choices(**vars(SHORT) | {"seed": 3}), overwrite=True)
    assert names(out) == WHOLE and again["frames_sha256"] != record["frames_sha256"]


def test_a_disk_that_is_too_small_is_refused_before_filming(made, folder, monkeypatch):
    out, _ = made
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"made needs up to 10\.878 MB, .* has 1\.\d\d\d MB free"):
        film(folder, out, overwrite=True)
    assert names(out) == WHOLE


@pytest.mark.parametrize("read", ["film.json", "film.mp4"])
def test_a_film_does_not_replace_what_it_is_made_from(read, made, folder, capsys):
    out, _ = made
    flags = ["--model", folder, "--out", out, "--overwrite"]
    flags += (
        ["--story", out / read]
        if read == "film.json"
        else ["--prompt", "Mia waves.", "--start", out / read, "--start-caption", "Mia waves."]
    )
    with pytest.raises(SystemExit, match="2"):
        run(lambda: command(["film", *map(str, flags)]))
    assert f"{read} is an input and would be overwritten" in capsys.readouterr().err
    assert names(out) == WHOLE and read_recipe(out / "film.json").recorded


def test_a_start_that_is_missing_is_named_also_where_a_film_is_replaced(made, folder, capsys):
    out, _ = made
    flags = ["--model", folder, "--out", out, "--overwrite", "--prompt", "Mia waves."]
    flags += ["--start", out / "gone.png", "--start-caption", "Mia waves."]
    with pytest.raises(SystemExit, match="1"):
        run(lambda: command(["film", *map(str, flags)]))
    assert "gone.png" in capsys.readouterr().err and names(out) == WHOLE


def test_a_folder_in_the_films_place_is_named(folder, tmp_path):
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(UsageError, match=r"film\.mp4 is a folder"):
        film(folder, tmp_path, overwrite=True)


def test_films_in_one_process_do_not_share_a_folder_either(folder, tmp_path):
    with (
        one_writer(tmp_path),
        pytest.raises(UsageError, match=f"is being written by process {os.getpid()} "),
    ):
        film(folder, tmp_path)
