"""Runs notebooks from top to bottom and stores their outputs in them; wants the extra `docs`.

    python notebooks/run.py notebooks/quickstart.ipynb notebooks/train.ipynb

What only this machine knows is left out: times of cells, versions, and the repository's place.
"""

import sys
from itertools import groupby
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parent.parent


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    at_root = {"metadata": {"path": str(REPOSITORY)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=at_root).execute()
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook) -> None:
    """Leaves out what only this machine knows, and joins what a cell printed."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output for part in groupby(cell.outputs, stream) for output in one(part)
            ]


def stream(output) -> str | None:
    return output.get("name")


def one(part) -> list:
    """What a cell printed in one go, as one output; pictures as they are."""
    name, outputs = part
    if name is None:
        return list(outputs)
    text = "".join(output.text for output in outputs).replace(f"{REPOSITORY}/", "")
    return [nbformat.v4.new_output("stream", name=name, text=text)]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        run(path)
        print(f"{path}: run")
