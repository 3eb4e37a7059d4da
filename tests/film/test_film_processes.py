"""Two processes with a device each make the film of one process, and refuse what differs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from as_two_film_makers import WHOLE
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_models import tiny_folder
from two_processes import both_ended, two_processes

from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import prompt_recipe, read_recipe
from causalcine_jax.render.mp4 import read_film


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of all films, and how the processes of each ended: (code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("films")
    tiny_folder(folder / "init")
    (folder / "story.yaml").write_text(
        "schema: causalcine/story@1\n"
        "shots: [{caption: Mia waves., chunks: 2}, {caption: Otto sleeps., chunks: 1}]"
    )
    two_hosts(folder)
    flags = (
        f"--story={folder / 'story.yaml'}",
        f"--model={folder / 'init'}",
        f"--out={folder / 'film'}",
        "--pool-on=host",
    )
    started = {
        "film": two_processes("launch/generate.py", *flags, devices=1),
        "hosts": two_processes("tests/support/as_two_film_makers.py", str(folder), devices=1),
    }
    generate(
        read_recipe(folder / "story.yaml"),
        folder / "film_alone",
        model=folder / "init",
        progress=False,
    )
    generate(
        prompt_recipe("Mia waves."),
        folder / "whole_alone",
        model=folder / "init",
        choices=WHOLE,
        progress=False,
    )
    return folder, {name: both_ended(pair) for name, pair in started.items()}


def two_hosts(folder: Path) -> None:
    """Two machines' disks: the same model but for one number, and other pictures."""
    for number in range(2):
        host = folder / f"host{number}"
        shutil.copytree(folder / "init", host / "model")
        Image.new("RGB", (32, 16), (number, 0, 0)).save(host / "start.png")
    shutil.copy(folder / "host0" / "start.png", folder / "host0" / "only_on_host0.png")
    nudge(next((host / "model" / "transformer").glob("*.safetensors")))


def nudge(file: Path) -> None:
    """Changes one number of one tensor."""
    tensors = load_file(file)
    next(iter(tensors.values())).flat[0] += 1e-3
    save_file(tensors, file)


@pytest.mark.slow
def test_a_film_is_made_by_two_processes_and_written_by_the_first(ended):
    folder, codes = ended
    (code, _, progress), (other, _, silence) = codes["film"]
    assert (code, other) == (0, 0), codes["film"]
    assert "chunk 3/3" in progress and "chunk" not in silence
    record = json.loads((folder / "film" / "film.json").read_text())
    assert (record["device"]["seq"], record["pool_on"]) == (2, "host") and len(
        record["retrieved"]
    ) == 3
    together, alone = (
        read_film(folder / name / "film.mp4").astype(int) for name in ("film", "film_alone")
    )
    assert (
        together.shape == alone.shape and np.abs(together - alone).mean() < 1
    )  # of 255; other sums, then H.264


@pytest.mark.slow
def test_what_one_process_lacks_or_holds_otherwise_is_named_by_both(ended):
    folder, codes = ended
    assert [code for code, _, _ in codes["hosts"]] == [0, 0], codes["hosts"]
    ours, theirs = (
        json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        for _, out, _ in codes["hosts"]
    )
    assert ours == theirs and not (folder / "refused").exists()
    apart = "UsageError: the processes were not started alike: "
    assert ours["seq"] == f"{apart}seq is '2' in process 0 and '3' in process 1"
    assert re.fullmatch(
        rf"{apart}weights.transformer is '\w{{12}}' in process 0 and '\w{{12}}' in process 1",
        ours["model"],
    )
    assert re.fullmatch(
        rf"{apart}start is '\w{{12}}' in process 0 and '\w{{12}}' in process 1", ours["start"]
    )
    assert (
        ours["missing"]
        == "DataError: process 1: only_on_host0.png cannot be read: No such file or directory"
    )


@pytest.mark.slow
def test_a_whole_film_is_made_by_two_processes_as_by_one(ended):
    folder, codes = ended
    assert [code for code, _, _ in codes["hosts"]] == [0, 0], codes["hosts"]
    together, alone = (
        read_film(folder / name / "film.mp4").astype(int) for name in ("whole", "whole_alone")
    )
    assert (
        together.shape == alone.shape == (17, *alone.shape[1:])
        and np.abs(together - alone).mean() < 1
    )
