"""The GPU memory that every command gives jax, flags of sizes, and flags given twice."""

import gc
import signal
import threading
import time

import pytest
from jaxlib import xla_client

from benchmarks import command_line as bench
from causalcine_jax.__main__ import command
from causalcine_jax.cli import ArgumentParser, refuse_repeated, run
from causalcine_jax.commands import film, plan
from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.errors import UsageError
from causalcine_jax.planning.hardware import target

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.mark.parametrize("chosen", [None, *FRACTIONS])
def test_jax_is_given_the_memory_that_plans_assume_unless_the_user_sets_another(
    monkeypatch, chosen
):
    for name in FRACTIONS:
        monkeypatch.setenv(name, "0.5")
        if name != chosen:
            monkeypatch.delenv(name)
    given = []
    with pytest.raises(SystemExit, match="0"):
        run(lambda: given.append(xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"]))
    assert given == [0.5 if chosen else GPU_MEMORY]
    assert target("h200:1x8").chip.memory == int(GPU_MEMORY * 151397597184)


@pytest.mark.parametrize(
    "parse, words",
    [
        (film.parse, ["--prompt", "a hut"]),
        (lambda words: plan.parse(words)[0], ["memory", "--model", "wan-14b"]),
        (lambda words: plan.parse(words)[0], ["compile", "--config", "a.py", "--topology", "v5p"]),
        (bench.parse, ["streaming", "--preset", "storyworld"]),
    ],
    ids=["film", "plan memory", "plan compile", "bench"],
)
def test_every_command_reads_a_size_alike(parse, words, capsys):
    assert parse([*words, "--size", "832x480"]).size == (832, 480)
    for wrong in ("480p", "832 x 480", "832x480x3"):
        with pytest.raises(SystemExit):
            parse([*words, "--size", wrong])
        assert capsys.readouterr().err == (
            "error: argument --size: must be WIDTHxHEIGHT in pixels, "
            f"such as 832x480, not '{wrong}'\n"
        )


@pytest.mark.parametrize(
    "words, refused",
    [
        (["race", "--preset", "storyworld"], "--preset has no effect on race: leave it out"),
        (["desk", "--dtype", "bfloat16"], "--dtype has no effect on desk: leave it out"),
        (["streaming", "--peer"], "--peer applies only to attention and forward"),
        (["vae", "--keep-rates"], "--keep-rates applies only to ceilings"),
        (["vae", "--case", "a"], "--case applies only to race, reliability, desk"),
        (["race", "vae"], "bench race is measured alone: leave out the other parts"),
        (["vae", "all"], "bench all is measured alone: leave out the other parts"),
        (["vea", "--batch", "2"], "bench: unknown part 'vea', did you mean 'vae'"),
        (["--targets", "cpu", "--repeats", "2"], "--repeats has no effect with --targets"),
    ],
)
def test_bench_refuses_flags_that_nothing_would_use(words, refused):
    with pytest.raises(UsageError, match=refused):
        bench.parse(words)
    everything = bench.parse(["all", "--preset", "storyworld", "--peer", "--batch", "2"])
    assert everything.peer and everything.batch == 2


@pytest.mark.parametrize("again", [["--steps", "5"], ["--steps=5"], ["--ste", "5"]])
def test_a_flag_of_one_value_given_twice_is_refused(capsys, again):
    parser = ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lora", action="append")
    parser.add_argument("--quiet", action="store_true")
    assert vars(parser.parse_args(["--lora", "a", "--lora", "b", "--quiet", "--quiet"])) == {
        "steps": 3,
        "lora": ["a", "b"],
        "quiet": True,
    }
    assert (
        parser.parse_args(["--steps", "4"]).steps == parser.parse_args(["--steps", "4"]).steps == 4
    )
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--steps", "4", *again])
    assert (
        stopped.value.code == 2
        and "given twice, and it takes one value: leave out 4 or 5" in capsys.readouterr().err
    )


def test_a_repeated_flag_is_refused_also_without_argparse():
    refuse_repeated(["--config", "a.py", "--config.optim.lr", "-1e-3", "--out=b", "-3"])
    for arguments in (
        ["--out", "a", "--out=b"],
        ["--config.optim.lr", "1", "--config.optim.lr=2"],
        ["--print_config", "--print-config"],
    ):
        with pytest.raises(UsageError, match="takes one value: leave out all but one"):
            refuse_repeated(arguments)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_not_lost_where_python_drops_exceptions(number, code, capsys):
    def collecting(phase, info):
        if threading.current_thread() is threading.main_thread():
            gc.callbacks.remove(collecting)
            signal.raise_signal(number)

    def main():
        gc.callbacks.append(collecting)
        gc.collect()
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
    try:
        with pytest.raises(SystemExit) as ended:
            run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == code and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (("evaluate", "--every", "8"), "--every needs a folder of films"),
        (
            ("evaluate", "--films", "x", "--steps", "8", "--seed", "3"),
            "--steps, --seed and --films",
        ),
        (("direct", "--out", "x", "--server", "u", "--dtype", "bfloat16"), "--dtype has no effect"),
        (
            ("direct", "--out", "x", "--takes", "--resume", "t", "--seed", "1"),
            "--seed is the resumed",
        ),
    ],
)
def test_flags_without_effect_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(list(words)))
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("film", "--prompt", "a", "--out", ""),
        ("film", "--prompt", "a", "--out", "x", "--model", ""),
        ("film", "--resume", ""),
        ("convert", "--from", "", "--out", "x"),
        ("encode", "--model", " ", "--out", "x"),
        ("gallery", "", "--out", "x"),
        ("check", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(list(words)))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "must be a path, not nothing" in said


def test_a_path_that_cannot_be_opened_ends_in_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError):  # nobody named it: a bug keeps its traceback
        run(lambda: (tmp_path / "no").read_text())
    for path in (tmp_path / ("x" * 5000), tmp_path / "file" / "in it", tmp_path, tmp_path / "no"):
        monkeypatch.setattr("sys.argv", ["causalcine", "check", str(path)])
        with pytest.raises(SystemExit) as ended:
            run(lambda path=path: path.read_text())
        said = capsys.readouterr().err
        assert ended.value.code == 1 and said.startswith("error: '") and said.count("\n") == 1
        assert len(said) < 200
