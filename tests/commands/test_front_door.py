"""`causalcine`: its help, its version, what it says of commands and flags that it does not know."""

import importlib
import os
import shlex
import subprocess
import sys
import tomllib

import pytest
from heavy_imports import heavy_imports
from repository import ROOT
from tiny_models import WORDS

from causalcine_jax import __version__
from causalcine_jax.__main__ import COMMANDS, FROM_CHECKOUT, command, help_text
from causalcine_jax.cli import run
from causalcine_jax.commands import film, from_checkout
from causalcine_jax.errors import UsageError
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.presets import preset


def causalcine(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", "causalcine_jax", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_help_is_one_screen_and_names_every_command():
    lines = help_text().splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    named = {line.split()[0] for line in lines if line.startswith("  ")}
    assert {*COMMANDS, *FROM_CHECKOUT, "--version"} <= named
    modules = {file.stem for file in (ROOT / "causalcine_jax" / "commands").glob("*.py")}
    assert modules == {*COMMANDS, "__init__", "version", "from_checkout", "model_flags"}
    assert FROM_CHECKOUT.keys() == from_checkout.FOLDERS.keys()


def test_the_first_film_of_the_help_can_be_made():
    name, *flags = shlex.split(help_text().splitlines()[-1])[1:]
    prompt = film.parse(flags).prompt
    assert name == "film" and prompt
    check_prompts([("prompt", prompt)], WORDS, preset("storyworld").transformer.text_len)


def test_the_installed_command_is_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["causalcine"].partition(":")
    assert getattr(importlib.import_module(module), name).__module__ == "causalcine_jax.__main__"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_nothing_to_do_shows_the_help(arguments, capsys):
    command(arguments)
    assert capsys.readouterr().out == help_text() + "\n"


def test_the_module_runs_as_a_program():
    done = causalcine("--help")
    assert (done.returncode, done.stdout, done.stderr) == (0, help_text() + "\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_flags(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command([name, "--help"]))
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"causalcine {name}" in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("name", FROM_CHECKOUT)
def test_a_checkout_has_two_commands_more(name, tmp_path):
    done = causalcine(name, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"usage: causalcine {name}" in done.stdout


def test_outside_a_checkout_they_say_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setattr(from_checkout, "PACKAGE", [str(tmp_path / "a" / "causalcine_jax")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        command(["bench", "streaming"])
    assert str(error.value) == (
        "bench needs a checkout of the repository, which has benchmarks/: "
        "run `causalcine bench` there"
    )


def test_the_version_says_what_the_cpu_computes_with():
    done = causalcine("--version", CAUSALCINE_CPU_KERNELS="0")
    first, packages, cpu, programs = done.stdout.splitlines()
    assert (done.returncode, first) == (0, f"causalcine {__version__}")
    assert packages.startswith(f"python {sys.version_info.major}.{sys.version_info.minor}.")
    assert ", jax 0." in packages and ", flax 0." in packages
    assert cpu.endswith(": the portable path, XLA (CAUSALCINE_CPU_KERNELS=0)")
    assert programs.startswith("compiled programs are ")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["fil"], "unknown command 'fil', did you mean 'film'?"),
        (["--version", "x"], "--version stands alone: leave out 'x'"),
        (["--verson"], "unknown command '--verson', did you mean '--version'?"),
        (
            ["film", "--stepps", "3", "--prompt", "a"],
            "unknown flag --stepps, did you mean --steps?",
        ),
        (["film", "--prompt", "a", "more"], "unexpected 'more': see causalcine film --help"),
        (["film", "--prompt", "a", "--steps", "few"], "--steps: must be a whole number, not 'few'"),
        (["convert"], "the following arguments are required: --from, --out"),
        (["plan"], "the following arguments are required: command"),
        (["plan", "memory", "--model", "a", "--sise", "1x1"], "--sise, did you mean --size?"),
        (["plan", "memory", "--model", "a", "--config.batch=1"], "causalcine plan memory --help"),
        (["words", "--jsn"], "unknown flag --jsn, did you mean --json?"),
        (["check"], "the following arguments are required: STORY"),
        (["train"], "--config is missing: name a file, such as configs/base.py; usage: "),
    ],
)
def test_a_typing_error_is_one_line_and_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(arguments))
    out, error = capsys.readouterr()
    assert (ended.value.code, out, len(error.splitlines())) == (2, "", 1)
    assert error.startswith("error: ") and said in error


@pytest.mark.parametrize(
    "arguments", [["--help"], ["nonsense"], ["check", "nowhere.yaml"], ["words"], ["film", "-h"]]
)
def test_what_computes_nothing_imports_nothing_that_does(arguments, tmp_path):
    heavy, done = heavy_imports(["-m", "causalcine_jax", *arguments], tmp_path)
    assert not heavy, done.stderr


@pytest.mark.parametrize(
    "script", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.stem
)
def test_the_scripts_of_launch_are_the_same_commands(script, tmp_path, monkeypatch, capsys):
    name = {"generate": "film"}.get(script.stem, script.stem)
    assert len(script.read_text().splitlines()) <= 60 and name in {*COMMANDS, *FROM_CHECKOUT}
    monkeypatch.setenv("COLUMNS", "80")  # of both, also where pytest runs in a wider terminal
    heavy, there = heavy_imports([str(script), "--help"], tmp_path)
    assert there.returncode == 0 and not heavy, there.stderr
    if name in COMMANDS:
        with pytest.raises(SystemExit):
            run(lambda: command([name, "--help"]))
        said = capsys.readouterr().out
    else:  # a checkout's command changes sys.path
        said = causalcine(name, "--help").stdout
    assert there.stdout == said and f"causalcine {name} " in said
