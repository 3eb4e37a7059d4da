"""The notebooks run from top to bottom; the commands' own parsers read the second's flags.

Their outputs are stored in them (notebooks/run.py), for the pages of docs/.
"""

import importlib
import json
import re
from pathlib import Path

import matplotlib
import pytest
from repository import ROOT

from causalcine_jax.training import flags

COMMANDS = {"generate": "film", "evaluate": "evaluate"}  # of launch/


# For the cell of train.ipynb that is tagged "parameters": all stages in the fewest steps.
FEWEST = {
    "FILMS": 8,
    "STEPS": 2,
    "TRAJECTORIES": 4,
    "ODE_STEPS": 2,
    "DMD_STEPS": 2,
    "RETURNS": 2,
}


def code_cells(name: str, parameters: dict | None = None) -> list[str]:
    """The code, with other values in the cell that is tagged "parameters"."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if parameters:
        (tagged,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
        known: dict = {}
        exec("".join(tagged["source"]), known)
        assert parameters.keys() == known.keys() - {"__builtins__"}
        tagged["source"] = [f"{name} = {value!r}\n" for name, value in parameters.items()]
    return ["".join(cell["source"]) for cell in cells]


@pytest.mark.parametrize("name", ["quickstart.ipynb", "train.ipynb"])
def test_outputs_are_stored_and_tell_nothing_of_the_machine(name):
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert "stream" in kinds, "run again: notebooks/run.py"
    assert kinds - {"stream"} in ({"display_data"}, {"execute_result"})  # pictures, or a film
    said = "".join(line for output in outputs for line in output.get("text", []))
    assert not re.findall(r"(?:^|[\s'\"=(])/\w\S*", said)  # an absolute path
    assert not any("execution" in cell["metadata"] for cell in cells)


@pytest.mark.parametrize("name", ["quickstart.ipynb", "train.ipynb"])
def test_a_notebook_finds_the_repository_from_its_own_folder(monkeypatch, tmp_path, name):
    first = code_cells(name)[0]
    for start in (ROOT, ROOT / "notebooks"):
        monkeypatch.chdir(start)
        exec(first, {})
        assert Path.cwd() == ROOT
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="the repository is not here: set REPOSITORY"):
        exec(first, {})


@pytest.mark.slow
def test_the_quickstart_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    matplotlib.use("agg")
    space: dict = {}
    for cell in code_cells("quickstart.ipynb"):
        exec(cell, space)
    assert [chunk.shot.id for chunk in space["chunks"]] == 3 * ["s1"] + 4 * ["s2"] + 3 * ["s3"]
    assert "layer 5: [" in capsys.readouterr().out


@pytest.mark.slow
def test_the_training_notebook_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    matplotlib.use("agg")
    space: dict = {}
    for cell in code_cells("train.ipynb", {**FEWEST, "OUT": str(tmp_path)}):
        exec(cell, space)
    said = capsys.readouterr().out
    assert len(re.findall(r"^step 2/2  ", said, re.MULTILINE)) == 3
    assert (tmp_path / "film" / "film.mp4").stat().st_size > 10_000
    for name in ("this_student", "package"):
        report = json.loads((tmp_path / name / "evaluation.json").read_text(encoding="utf-8"))
        assert list(report["primary"]["rows"]) == ["truth", "vae", "camr", "none"]


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
