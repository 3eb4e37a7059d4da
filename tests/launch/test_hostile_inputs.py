"""Malformed stories, records, flags and stores: one short line names the fault, no traceback."""

import argparse
import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from tiny_models import WORDS

from causalcine_jax.cli import ArgumentParser, number, run, whole_number
from causalcine_jax.config import MemoryConfig
from causalcine_jax.data.latent_store import CorruptRecord, LatentStore, StoreSpec, captions_file
from causalcine_jax.errors import (
    DataError,
    StoppedEarly,
    UsageError,
    kept_when_stopped,
    printable,
    raise_faults,
    shown,
)
from causalcine_jax.film.prompts import check_prompts
from causalcine_jax.film_folder.record import read_recipe
from causalcine_jax.render.mp4 import check_size
from causalcine_jax.story import Shot, Story, read_story
from causalcine_jax.training.flag_checks import check_flags
from causalcine_jax.training.flags import parse

HEAD = "schema: causalcine/story@1\n"
SHOTS = 'shots: [{caption: "Mia waves.", chunks: 1}]\n'
LETTERS = "abcdefghi"
# Nine levels of nine aliases: 387 million values in 300 bytes.
LEVELS = [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip(LETTERS, LETTERS[1:])]
BOMB = f"a: &a [{','.join('x' * 9)}]\n" + "".join(LEVELS)


def fault(tmp_path, text: str | bytes, name: str = "story.yaml") -> str:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    begun = time.monotonic()
    with pytest.raises(UsageError) as raised:
        read_recipe(file)
    assert time.monotonic() - begun < 10  # those that hang do so for hours
    message = str(raised.value)
    assert len(message) < 2000 and message.isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{BOMB}schema: *i\n{SHOTS}", "expand to more than 400,000 values"),
        (f"{BOMB}{HEAD}seed: *i\n{SHOTS}", "expand to more than 400,000 values"),
        (f"{HEAD}seed: &s [*s]\n{SHOTS}", "or to themselves"),
        (
            "a: &a {b: 1}\n" + HEAD + "seed: {<<: [" + ",".join(["*a"] * 9) + "]}\n" + SHOTS,
            "seed must be a whole number",
        ),
        (f"{HEAD}seed: 2024-99-99\n{SHOTS}", "not valid YAML: month must be in 1..12"),
        (
            f"{HEAD}seed: 2024-01-01\n{SHOTS}",
            "seed must be a whole number from 0 to 4294967295, not datetime.date(2024, 1, 1)",
        ),
        (f'{HEAD}seed: !!bool "abc"\n{SHOTS}', "a value does not fit its tag ('abc')"),
        (f'{HEAD}seed: !!int ""\n{SHOTS}', "not valid YAML"),
        (f'{HEAD}seed: !!timestamp "soon"\n{SHOTS}', "a value does not fit its tag"),
        (f"{HEAD}seed: {'9' * 5000}\n{SHOTS}", "a whole number of thousands of digits"),
        (f"{HEAD}seed: {'9' * 1000}\n{SHOTS}", "not a number of about 1000 digits"),
        (f"{HEAD}? [a, b]\n: 1\n{SHOTS}", "not valid YAML"),
        (HEAD + "seed: " + "[" * 900, "nested too deeply"),
        (f"{HEAD}{'x' * 3_000_000}: 1", "has more than 2,097,152 bytes"),
        (HEAD + "".join(f"k{n}: 1\n" for n in range(500)) + SHOTS, "unknown key 'k19'"),
        (f'{HEAD}"\\e[2J": 1\n{SHOTS}', r"unknown key '\x1b[2J'"),
        (
            f"{HEAD}video: {{width: 16000000000, height: 96}}\n{SHOTS}",
            "width must be at most 16384 pixels, not 16000000000",
        ),
        (f"{HEAD}{SHOTS}".encode("utf-16"), "save it as UTF-8"),
        (f"{HEAD}seed: [{'1,' * 900_000}]\n{SHOTS}", "has more than 50,000 values: save so long"),
        ("{" + "a," * 900_000 + "}", "has more than 50,000 values: save so long"),
        (f'{HEAD}shots: [{{caption: "\\0\\ufeff \\u200b", chunks: 1}}]', "the caption is empty"),
        (f'{HEAD}shots: [{{caption: Mia., id: "\\u2060", chunks: 1}}]', "id must be text"),
    ],
    ids=range(22),
)
def test_yaml(tmp_path, text, said):
    assert said in fault(tmp_path, text)


def test_no_more_than_twenty_faults_are_listed(tmp_path):
    message = fault(tmp_path, HEAD + "".join(f"k{n}: 1\n" for n in range(500)) + SHOTS)
    assert "k19" in message and "k20" not in message and message.endswith("; and 480 more")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{{"seed": {"9" * 5000}}}', "a whole number of thousands of digits"),
        ("[" * 200_000, "nested too deeply"),
        (
            '{"schema": "causalcine/story@1", "global": "\\ud800", '
            '"shots": [{"caption": "x", "chunks": 1}]}',
            "half a character",
        ),
        (
            '{"schema": "causalcine/story@1", "shots": [{"caption": "x", "seconds": NaN}]}',
            "at most 3600, not nan",
        ),
        ('{"seed": 1, "seed": 2}', "the key 'seed' is given twice"),
        ("[" + "{}," * 20_000_000 + "1]", "has more than 4,000,000 values"),
        ("[" + "{}," * 1_990_000 + "1]", "must be a mapping"),
    ],
    ids=range(7),
)
def test_json(tmp_path, text, said):
    assert said in fault(tmp_path, text, "story.json")


def test_a_byte_order_mark_is_no_fault_and_aliases_are_for_use(tmp_path):
    story = Story((Shot("Mia waves.", chunks=1),))
    for name, text in (("story.json", json.dumps(story.to_dict())), ("story.yaml", HEAD + SHOTS)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_story(tmp_path / name) == story
    (tmp_path / "story.yaml").write_text(HEAD + "shots: [&a {caption: Mia waves., chunks: 1}, *a]")
    assert read_story(tmp_path / "story.yaml").shots == 2 * story.shots


RECORD = {
    "schema": "causalcine/film@1",
    "story": Story((Shot("Mia waves.", chunks=1),)).to_dict(),
    "sampler": {"steps": 4},
    "memory": {"policy": "camr"},
    "pool_frames": 18,
    "weights_sha256": "ab",
    "scale": 4,
    "chunk_frames": 3,
    "whole_film": False,
    "kv_dtype": "same",
    "pool_on": "device",
    "dtype": "float32",
    "model": "m",
    "frames_sha256": "cd",
    "start": {"file": "a", "caption": "b", "sha256": "c"},
    "tiny_decoder": {"file": "a", "sha256": "b"},
}
RUBBISH = (None, [], {"a": [1]}, "\x1b[2J", 1.5, -1, 10**400, True, float("nan"))


@pytest.mark.parametrize("name", sorted(RECORD.keys() - {"schema"}))
def test_an_edited_film_json_of_any_type_is_a_story_or_a_fault(tmp_path, name):
    right = {"whole_film": (True,)}.get(name, ())
    for rubbish in RUBBISH:
        if rubbish in right or (
            isinstance(RECORD[name], str)
            and isinstance(rubbish, str)
            and name not in ("kv_dtype", "pool_on", "dtype")
        ):
            continue
        if (isinstance(RECORD[name], dict) and name in ("sampler", "memory")) and isinstance(
            rubbish, dict
        ):
            continue  # its fields are checked below
        file = tmp_path / "film.json"
        try:
            file.write_text(json.dumps({**RECORD, name: rubbish}))
        except ValueError:
            continue
        with pytest.raises(UsageError) as raised:
            read_recipe(file)
        assert str(raised.value).isprintable() and len(str(raised.value)) < 2000


@pytest.mark.parametrize("rubbish", ["x", None, [], 1.5, 10**30])
def test_the_fields_of_a_records_memory_and_sampler_have_types(rubbish):
    from causalcine_jax.film.record_schema import FilmRecord

    with pytest.raises(
        UsageError,
        match=r"memory: (policy|window_chunks)"
        r"|memory: unknown key 'windows', did you mean 'window_chunks'",
    ):
        FilmRecord.from_dict(
            {"memory": {"policy": rubbish, "windows": 3, "window_chunks": rubbish}}
        )
    with pytest.raises(UsageError, match="sampler"):
        FilmRecord.from_dict({"sampler": {"steps": rubbish, "guidance": float("nan")}})
    for huge in (
        {"sampler": {"guidance": 10**400}},
        {"loras": [{"file": "a", "strength": 10**400, "sha256": "b"}]},
    ):
        with pytest.raises(UsageError, match="must be a"):
            FilmRecord.from_dict(huge)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "four", "", "9" * 5000])
def test_a_number_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        number(text)
    assert len(str(raised.value)) < 200
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        whole_number(text)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("text", ["-1e3", "-.5", "-7"])
def test_a_negative_number_is_the_value_of_the_flag_before_it(text):
    parser = ArgumentParser()
    parser.add_argument("--shift", type=number)
    assert parser.parse_args(["--shift", text]).shift == float(text)


def test_a_negative_infinity_is_no_number(capsys):
    parser = ArgumentParser()
    parser.add_argument("--shift", type=number)
    with pytest.raises(SystemExit):
        parser.parse_args(["--shift", "-inf"])
    assert "--shift: must be a finite number, not '-inf'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["window_chunks", "memory_frames"])
def test_more_history_than_indices_count_is_refused(name):
    MemoryConfig(**{name: 10**8})
    with pytest.raises(UsageError, match=f"{name} must be at least 0 and at most 100000000"):
        MemoryConfig(**{name: 10**10})


def test_numbers():
    assert (number("2.5"), number("-1e3"), whole_number("-7")) == (2.5, -1000.0, -7)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("story: \x1b[2J is red"), 2, r"error: story: \x1b[2J is red"),
        (
            MemoryError("Unable to allocate 8.00 EiB"),
            1,
            "error: out of memory (Unable to allocate 8.00 EiB): ask for less: fewer films",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nand more"),
            1,
            "Out of memory allocating 7 bytes.): ask for",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "film.json"),
            1,
            "error: the disk is full (film.json): make room and run again",
        ),
        (StoppedEarly("3 chunks are kept"), 75, "3 chunks are kept"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_how_a_command_ends(error, code, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    written = capsys.readouterr().err
    assert ended.value.code == code and said in written and written.count("\n") == 1


def test_text_that_stdout_cannot_encode_is_escaped(capsys):
    """A folder's name may hold any bytes, and a terminal may lack Chinese."""
    with pytest.raises(SystemExit) as ended:
        run(lambda: print(Path(os.fsdecode(b"caf\xe9")) / "index.html"))
    assert ended.value.code == 0 and capsys.readouterr().out == "caf\\udce9/index.html\n"


@pytest.mark.parametrize(("kept", "code"), [("a film is kept", 75), ("", 143)])
def test_sigterm_is_ctrl_c_and_what_is_kept_decides_the_code(kept, code, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def main():
        with kept_when_stopped(lambda: kept):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == code and signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == f"{kept or 'interrupted'}\n"


def test_values_are_shown_short_and_without_controls():
    endless: list = []
    endless.append(endless)
    for value in (
        endless,
        10**5000,
        "x" * 10**6,
        {"a": {"b": {"c": list(range(10**4))}}},
        "\x1b]0;title\x07\u202e",
        b"\x00" * 10**6,
    ):
        assert len(shown(value)) <= 80 and shown(value).isprintable()
    assert (shown("fox"), shown(3), shown(None), shown(10**99)) == (
        "'fox'",
        "3",
        "None",
        "a number of about 99 digits",
    )
    assert printable("Лиса 🦊 \x1b[2J\n") == r"Лиса 🦊 \x1b[2J\n"
    with pytest.raises(UsageError, match=r"x: a; b"):
        raise_faults("x", ["a", "b"])


def test_an_absurd_scale_names_bytes_and_what_to_change():
    with pytest.raises(
        UsageError,
        match=r"80000 x 48000 pixels, 11520000000 bytes each, .* scale can be at most 204",
    ):
        check_size(48, 80, 1000)
    check_size(48, 80, 204)


@pytest.mark.parametrize(
    ("global_caption", "captions", "said"),
    [
        (
            "A tale about Mia the fox.",
            ["Mia the fox, Otto the owl and Luna the rabbit wave."],
            "shot 's1' names 3 characters (Mia, Otto, Luna)",
        ),
        (
            "",
            ["Mia waves.", "Otto waves.", "Luna waves.", "Felix waves."],
            "the story names 4 characters (Mia, Otto, Luna, Felix)",
        ),
        (
            "Meet Mia the fox, Otto the owl and Luna the rabbit.",
            ["Mia and Otto wave.", "Luna and Mia wave."],
            None,
        ),
    ],
)
def test_no_more_characters_than_the_model_was_trained_on(global_caption, captions, said):
    story = Story(tuple(Shot(caption, chunks=1) for caption in captions), global_caption)
    prompts = [(shot.id, shot.prompt) for shot in story.resolve().shots]
    if said is None:
        check_prompts(prompts, WORDS, 64, story)
        return
    with pytest.raises(UsageError) as raised:
        check_prompts(prompts, WORDS, 64, story)
    assert said in str(raised.value)


@pytest.mark.parametrize("returned", ["'abc'", "42", "None", "{'steps': 3}", "float('nan')"])
def test_a_config_file_that_returns_rubbish(tmp_path, returned):
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {returned}\n")
    with pytest.raises(UsageError, match=r"get_config\(\) must return a TrainConfig"):
        parse([f"--config={tmp_path / 'config.py'}"])


def test_a_config_without_numbers_and_with_a_store_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"optim\.lr must be finite, not inf"):
        parse(["--config=configs/base.py", "--config.optim.lr=inf"])
    with pytest.raises(UsageError, match=r"steps is too large: a number of about 400 digits"):
        parse(["--config=configs/base.py", f"--config.steps={'9' * 400}"])
    named = ["--config=configs/base.py", f"--config.data.store={tmp_path / 'none'}"]
    with pytest.raises(
        UsageError,
        match=r"there is no latent store .*none \(--config.data.store\): causalcine encode",
    ):
        check_flags(named, parse(named)[0])
    (tmp_path / "none").mkdir()
    check_flags(named, parse(named)[0])
    check_flags(named[:1], parse(named[:1])[0])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "3",
        '{"prompts": 3}',
        '{"prompts": [1, 2]}',
        '{"captions": []}',
        "[" * 100_000,
    ],
)
def test_a_stores_wrong_captions_are_a_damaged_record(tmp_path, line):
    spec = StoreSpec(
        films=1,
        latent_frames=3,
        height=2,
        width=2,
        shots=1,
        text_len=4,
        source={},
        vae="",
        tokenizer="",
    )
    file = captions_file(tmp_path, 0)
    file.parent.mkdir()
    file.write_text(line)
    with pytest.raises(CorruptRecord, match="captions of record 0 cannot be read") as raised:
        LatentStore(tmp_path, spec, {}).prompts(0)
    assert isinstance(raised.value, DataError) and len(str(raised.value)) < 500
