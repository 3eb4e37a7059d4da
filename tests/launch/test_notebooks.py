"""The notebooks run from top to bottom: the first as it is, the second with its commands read by those who would run them."""

import importlib
import json

import matplotlib
import pytest
from repository import ROOT

from causalcine_jax.training import flags

COMMANDS = {"generate": "film", "evaluate": "evaluate"}  # of launch/


def code_cells(name: str) -> list[str]:
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"), (
        "outputs do not belong into the repository"
    )
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_quickstart_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    matplotlib.use("agg")
    space: dict = {}
    for cell in code_cells("quickstart.ipynb"):
        exec(cell, space)
    assert [chunk.shot.id for chunk in space["chunks"]] == 3 * ["s1"] + 4 * ["s2"] + 3 * ["s3"]
    assert "layer 5: [" in capsys.readouterr().out


def test_the_commands_of_the_training_notebook_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    asked, space = [], {}

    def run(script, *arguments):
        arguments = [str(argument) for argument in arguments]
        parse = (
            flags.parse
            if script == "train"
            else importlib.import_module(f"causalcine_jax.commands.{COMMANDS[script]}").parse
        )
        asked.append((script, parse(arguments)))

    for cell in code_cells("train.ipynb"):
        exec(cell, space)
        space |= {
            "run": run,
            "show": lambda picture, width=12: None,
            "print": lambda *words: None,
            "sorted": lambda names: None,
        }
    assert [script for script, _ in asked] == [
        "train",
        "train",
        "train",
        "generate",
        "evaluate",
        "evaluate",
    ]
    assert [parsed[0].stage for script, parsed in asked if script == "train"] == [
        "teacher_forcing",
        "ode_init",
        "dmd",
    ]
