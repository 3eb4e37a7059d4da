"""Every command looks at its --out first: before a model is read, and with one line and code 2."""

import os

import pytest
from tiny_models import tiny_folder
from tiny_training import tiny_config

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.storyworld.config import FILES
from causalcine_jax.training.loop import train
from causalcine_jax.utils.output import one_writer


def ends(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        run(lambda: command([str(argument) for argument in arguments]))
    return ended.value.code


@pytest.fixture(
    params=[
        ("film", "--prompt", "Mia waves."),
        ("direct",),
        ("evaluate",),
        ("encode", "--films", 1),
        ("convert",),
        ("prepare", "videos"),
    ],
    ids=lambda words: words[0],
)
def words(request, tmp_path):
    """A command with a model that is not there, without its --out."""
    name, *others = request.param
    if name == "film":  # looks whether the folder is there, and no more
        (tmp_path / "none").mkdir()
    return name, *others, "--from" if name == "convert" else "--model", tmp_path / "none"


def test_two_commands_do_not_write_one_out(words, tmp_path, capsys):
    out = tmp_path / "out"
    with one_writer(out, beside=words[0] in ("encode", "convert")):
        assert ends(*words, "--out", out) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out} is being written by process {os.getpid()} on ")
    assert said.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("name", ["prepare", "encode", "convert"])
def test_a_name_that_tensorstore_cannot_take_is_refused_first(name, tmp_path, capsys):
    out = tmp_path / os.fsdecode(b"caf\xe9")
    tiny_folder(tmp_path / "model")
    words = {
        "prepare": ("prepare", tmp_path, "--model", tmp_path / "model", "--out", out),
        "encode": ("encode", "--films", 1, "--model", tmp_path / "model", "--out", out),
        "convert": ("convert", "--from", tmp_path / "model", "--to", "orbax", "--out", out),
    }
    assert ends(*words[name]) == 2
    assert "its name is not UTF-8, as tensorstore needs it" in capsys.readouterr().err
    with pytest.raises(UsageError, match="its name is not UTF-8"):
        train(tiny_config(out))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture(params=["encode", "convert"])
def renaming(request, tmp_path):
    """A command whose out appears by renaming a folder, without its --out."""
    model = tiny_folder(tmp_path / "model")
    return {
        "encode": ("encode", "--films", 2, "--films-per-shard", 2, "--model", model),
        "convert": ("convert", "--from", model, "--to", "diffusers"),
    }[request.param]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_where_a_folder_would_be_renamed_to_it(renaming, there, tmp_path, capsys):
    if there:
        (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to("big")
    before = sorted(tmp_path.iterdir())
    assert ends(*renaming, "--out", tmp_path / "out") == 2
    assert "out is a link" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_folder_is_an_out_and_anothers_is_none(renaming, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert ends(*renaming, "--out", tmp_path / "mine") == 2
    assert "choose another --out" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert ends(*renaming, "--out", tmp_path / "out") == 0
    assert any((tmp_path / "out").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model", "out"]


def test_an_out_that_is_a_file_is_refused(words, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert ends(*words, "--out", tmp_path / "out") == 2
    assert "out is a file, and --out is a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", FILES)
def test_an_evaluation_is_not_replaced_unless_asked(name, tmp_path, capsys):
    (tmp_path / name).write_text("earlier")
    words = ("evaluate", "--model", tmp_path / "none", "--out", tmp_path)
    assert ends(*words) == 2
    assert f"{tmp_path} holds {name} already: choose another --out" in capsys.readouterr().err
    assert ends(*words, "--overwrite") == 1  # for want of the model
    assert [path.name for path in tmp_path.iterdir()] == [name]
