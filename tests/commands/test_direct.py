"""`causalcine direct`: lines of the input become shots while the film streams."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from repository import ROOT

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.commands import direct as direct_command
from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError
from causalcine_jax.film.director import Director
from causalcine_jax.film.live import directed
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film.story_edits import shot_of_line
from causalcine_jax.film_folder import filming
from causalcine_jax.render.mp4 import FilmWriter, read_film
from causalcine_jax.story import read_story

FEW = SamplerConfig(steps=1, solver="euler")


def test_a_line_that_comes_late_goes_on_with_the_film(folder):
    first_is_filmed, told = threading.Event(), []

    def lines():
        yield "2: Mia waves.\n"
        yield "\n"
        yield "Mia wavess.\n"
        assert first_is_filmed.wait(60)
        yield "Otto sleeps.\n"

    director = Director(
        load_model(folder),
        "A story.",
        sampler=FEW,
        memory=MemoryConfig("camr", 1, 2),
        pool=PoolConfig(18),
    )
    seen = []
    for chunk in directed(director, lines(), 1, told.append):
        seen.append((chunk.index, chunk.shot.caption))
        if chunk.index == 1:
            first_is_filmed.set()
    assert seen == [(0, "Mia waves."), (1, "Mia waves."), (2, "Otto sleeps.")]
    (fault,) = told
    assert fault.startswith("error: story: the model does not know 'wavess' in shot 's2'")


def direct(*flags):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["direct", *map(str, flags)]))
    return ended.value.code


def test_a_desk_of_its_own_keeps_takes_and_saves_the_film(folder, tmp_path):
    out, words = tmp_path / "live", [sys.executable, "-m", "causalcine_jax", "direct", "--takes"]
    done = subprocess.run(
        [*words, "--model", str(folder), "--out", str(out), "--chunks", "1"],
        input="2: Mia waves.\n/branch 9\nOtto sleeps.\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "error: no shot has begun" in done.stderr or "error: there is no shot" in done.stderr
    assert len(read_film(out / "film.mp4")) == 33 and (out / "takes").is_dir()
    shots = read_story(out / "story.yaml").shots
    assert [(shot.caption, shot.chunks) for shot in shots] == [
        ("Mia waves.", 2),
        ("Otto sleeps.", 1),
    ]


def test_the_story_that_was_told_makes_the_same_film(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("Mia waves.\n2: Otto sleeps.\n"))
    flags = ("--model", folder, "--out", tmp_path / "live", "--pool-frames", 12, "--chunks", 1)
    assert direct("--global", "A story.", "--seed", 3, *flags) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-2].startswith("chunk 3/3  s2") and "film.mp4: 33 frames" in said[-1]
    story = read_story(tmp_path / "live" / "story.yaml")
    assert (story.global_caption, story.seed) == ("A story.", 3)
    assert [(s.caption, s.chunks) for s in story.shots] == [("Mia waves.", 1), ("Otto sleeps.", 2)]
    with pytest.raises(SystemExit, match="0"):
        flags = ["--model", str(folder), "--out", str(tmp_path / "film"), "--no-progress"]
        told = str(tmp_path / "live" / "story.yaml")
        run(lambda: command(["film", "--story", told, *flags]))
    live, again = (read_film(tmp_path / name / "film.mp4") for name in ("live", "film"))
    assert live.shape[0] == 33 and np.array_equal(live, again)


def test_an_input_without_a_shot_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    assert direct("--model", folder, "--out", tmp_path / "live", "--pool-frames", 12) == 2
    assert capsys.readouterr().err == "error: no film: write one caption per line of the input\n"
    assert not (tmp_path / "live").exists()


def test_an_earlier_film_stays_until_there_is_a_chunk(folder, tmp_path, monkeypatch, capsys):
    """Also an unfinished one, which `film --resume` would else put in the new film's place."""
    names = ("film.json", "film.mp4", "story.yaml", "unfinished/asked.json")
    earlier = {tmp_path / name: b"earlier" for name in names}
    for path, content in earlier.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    flags = ("--model", folder, "--out", tmp_path, "--pool-frames", 12, "--overwrite")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert direct(*flags) == 2
    assert capsys.readouterr().err == "error: no film: write one caption per line of the input\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == earlier
    monkeypatch.setattr("sys.stdin", io.StringIO("1: Mia waves.\n"))
    assert direct(*flags) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "story.yaml"]
    assert len(read_film(tmp_path / "film.mp4")) == 9


def test_an_unfinished_film_is_not_replaced_unasked(tmp_path, capsys):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "asked.json").write_text("{}")
    assert direct("--model", tmp_path / "none", "--out", tmp_path) == 2
    assert "holds an unfinished film: go on with it by --resume" in capsys.readouterr().err


def test_a_stopped_film_and_its_story_stay(folder, tmp_path, monkeypatch, capsys):
    class Stopping(FilmWriter):
        def append(self, frames):
            if self.frames:
                os.kill(os.getpid(), signal.SIGTERM)
            super().append(frames)

    monkeypatch.setattr("sys.stdin", io.StringIO("Mia waves.\n5: Otto sleeps.\n"))
    monkeypatch.setattr(filming, "FilmWriter", Stopping)
    flags = ("--model", folder, "--out", tmp_path, "--pool-frames", 12, "--chunks", 1)
    assert direct(*flags) == 75
    unfinished = tmp_path / "film.unfinished.mp4"
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "stopped before the film's end"
    again = f"--story {tmp_path / 'story.yaml'} --out NEW --model {folder} --pool-frames 12"
    assert said[-2] == f"film what was told: causalcine film {again}"
    assert said[-3].startswith(f"kept: {unfinished}, ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.unfinished.mp4", "story.yaml"]
    assert len(read_film(unfinished)) in (9, 21) and len(read_story(tmp_path / "story.yaml").shots)
    assert direct(*flags) == 2
    assert "holds film.unfinished.mp4, story.yaml already" in capsys.readouterr().err


def test_the_story_is_kept_after_every_shot(folder):
    director = Director(
        load_model(folder), "A story.", sampler=FEW, memory=MemoryConfig("camr", 1, 2),
        pool=PoolConfig(18),
    )  # fmt: skip
    kept = []
    lines = iter(["Mia waves.\n", "Mia wavess.\n", "2: Otto sleeps.\n"])
    next(directed(director, lines, 1, lambda _: None, kept.append))
    assert [shot.caption for shot in kept[0].shots] == ["Mia waves."]
    while len(kept) < 2:
        time.sleep(0.01)
    assert [shot.caption for shot in kept[1].shots] == ["Mia waves.", "Otto sleeps."]


def test_an_input_that_breaks_off_ends_the_film_with_an_error(folder):
    def lines():
        yield "Mia waves.\n"
        raise OSError("Input/output error")

    memory, pool = MemoryConfig("camr", 1, 2), PoolConfig(18)
    director = Director(load_model(folder), "A story.", sampler=FEW, memory=memory, pool=pool)
    chunks = directed(director, lines(), 1, lambda _: None)
    assert next(chunks).index == 0
    with pytest.raises(DataError, match="the input broke off: Input/output error"):
        next(chunks)


def test_a_closed_input_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert direct("--out", tmp_path / "live") == 2
    assert "there is no input" in capsys.readouterr().err and not (tmp_path / "live").exists()


@pytest.mark.parametrize(
    ("line", "caption", "chunks"),
    [
        ("Mia waves.", "Mia waves.", 4),
        ("6: Mia waves.", "Mia waves.", 6),
        ("6 :Mia waves.", "Mia waves.", 6),
        ("10:30 in the morning, Mia waves.", "10:30 in the morning, Mia waves.", 4),
        ("10:30", "10:30", 4),
        ("6:3 dogs run.", "3 dogs run.", 6),
        ("6:101 dogs run.", "101 dogs run.", 6),
        ("123456: Mia waves.", "Mia waves.", 123456),
        (f"{'9' * 5000}: Mia waves.", f"{'9' * 5000}: Mia waves.", 4),
        ("7:", "", 7),
    ],
)
def test_the_length_in_front_of_a_caption(line, caption, chunks):
    assert shot_of_line(line, 4) == (caption, chunks)


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--chunks", 0), "--chunks must be at least 1"),
        (("--seed", -1), "seed must be"),
        (("--rollout-weights", "sharded"), "rollout_weights needs several devices"),
    ],
)
def test_flags_that_cannot_be_do_not_wait_for_a_model(flags, said, tmp_path, capsys):
    assert direct("--model", tmp_path / "none", "--out", tmp_path / "live", *flags) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "live").exists()


def test_a_byte_that_is_not_utf8_ends_nothing(monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9\nthree\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    direct_command._forgive_bytes()
    assert list(sys.stdin) == ["one\n", "caf\ufffd\n", "three\n"]


@pytest.mark.parametrize(
    ("chunks", "policy", "words"),
    [(9, "camr", "--pool-frames 24"), (8, "camr", ""), (9, "sink", "")],
)
def test_a_pool_that_evicted_frames_is_part_of_the_command(chunks, policy, words):
    """`film` would take a pool of the story's length and retrieve other frames."""
    director = SimpleNamespace(
        settings=SimpleNamespace(pool=PoolConfig(24)),
        memory=MemoryConfig(policy),
        resolved=SimpleNamespace(chunks=chunks),
        model=SimpleNamespace(chunk_frames=3),
    )
    flags = direct_command.parse(["--out", "live"])
    told = direct_command.film_command(flags, Path("s.yaml"), direct_command._outgrown(director))
    assert told == f"causalcine film --story s.yaml --out NEW {words}".rstrip()
