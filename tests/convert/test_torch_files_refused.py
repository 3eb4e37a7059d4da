"""Bad and malicious .pt files: each gives one error, and nothing is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch_archives as make
from torch_archives import archive, call, dictionary, integer, name, storage, tensor, text, tuple_of
from torch_reading import FLOATS, NUMBERS, WEIGHT, read, refused

from causalcine_jax.convert import torch_files, torch_pickle
from causalcine_jax.errors import DataError


class Malicious:
    """Its pickle calls `function` when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function, shown", [(os.system, r"(posix|nt)\.system"), (eval, r"(builtins|__builtin__)\.eval")]
)
def test_reading_a_torch_file_runs_no_code(tmp_path, protocol, function, shown):
    ran = tmp_path / "ran"
    argument = f"touch {ran}" if function is os.system else f"open({str(ran)!r}, 'w')"
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(file, "w") as out:
        out.writestr(
            "a/data.pkl", pickle.dumps({"generator": Malicious(function, argument)}, protocol)
        )
    refused(
        file,
        rf"is refused: its pickle asks for {shown}, and only tensors and plain data are read .*"
        r"nothing in it was run",
    )
    assert not ran.exists()


NESTED = call("torch._utils._rebuild_parameter", call("posix.system", text("true")), b"\x88", b"N")


@pytest.mark.parametrize(
    "content, asks_for",
    [
        (NESTED, r"posix\.system"),
        (call("builtins.getattr", name("torch.Size"), text("__class__")), r"builtins\.getattr"),
        (name("torch.Size.__class__"), r"torch\.Size\.__class__"),
        (name("collections.OrderedDict.fromkeys"), r"collections\.OrderedDict\.fromkeys"),
        (
            text("collections") + text("OrderedDict.__init__") + b"\x93",
            r"collections\.OrderedDict\.__init__",
        ),
        (call("torch.storage._load_from_bytes", text("x")), r"torch\.storage\._load_from_bytes"),
        (name("torch.float32") + b")R", r"a call of torch\.float32"),
        (integer(1) + b")R", r"a call of a int"),
        (b"(iposix\nsystem\n", r"a call of posix\.system"),
        (b"\x82\x01", r"the opcode EXT1"),
        (b"Pname\n", r"the opcode PERSID"),
        (name("pathlib.PosixPath") + tuple_of(text("/")) + b"R", r"pathlib\.PosixPath"),
        (name("argparse.Namespace") + b")\x81", r"argparse\.Namespace"),
        (call("_codecs.encode", text("x"), text("rot13")), r"_codecs\.encode to 'rot13'"),
        (text("a" * 10**5) + text("\n\x1b[2J") + b"\x93", r"a{100}, and only"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(tmp_path, content, asks_for):
    refused(
        archive(tmp_path / "a.pt", dictionary(w=WEIGHT, x=content), {"0": NUMBERS}),
        rf"is refused: its pickle asks for {asks_for}",
    )


HUGE = 2**63 - 1


DEEP = b"]" * 10_000 + b"a" * 9_999


WIDE = b"]q\x00" + make.MARK + b"h\x00" * 100 + b"e"  # a list that contains itself a hundred times


@pytest.mark.parametrize(
    "content, message",
    [
        (
            tensor(FLOATS, "0", 24, (25,)),
            r"'w' of shape \(25,\) does not fit its storage of 96 bytes",
        ),
        (tensor(FLOATS, "0", 24, (24,), offset=1), r"does not fit its storage"),
        (tensor(FLOATS, "0", 24, (4, 6), (7, 1)), r"does not fit its storage"),
        (tensor(FLOATS, "0", 24, (0,), offset=25), r"does not fit its storage"),
        (tensor(FLOATS, "0", 24, (10**9,), (0,)), r"does not fit its storage"),
        (tensor(FLOATS, "0", 24, (HUGE, HUGE)), r"does not fit its storage"),
        (tensor(FLOATS, "0", 24, (2,), (HUGE,)), r"does not fit its storage"),
        (
            tensor(FLOATS, "0", 24, (2,), (-1,), offset=2),
            r"size, offset or stride that no tensor has",
        ),
        (tensor(FLOATS, "0", 24, (2,), offset=-4), r"size, offset or stride that no tensor has"),
        (tensor(FLOATS, "0", 24, (2**70,)), r"size, offset or stride that no tensor has"),
        (tensor(FLOATS, "0", 24, (4, 6), (1,)), r"2 sizes and 1 strides"),
        (tensor(FLOATS, "0", 24, (1,) * 33), r"33 sizes"),
        (
            tensor(FLOATS, "0", 2**50),
            r"'w' is in a storage of 4,503,599,627,370,496 bytes, of which the file has 96",
        ),
        (tensor(FLOATS, "7", 24), r"its member 'data/7' is missing"),
        (
            tensor(FLOATS, "../../etc/passwd", 24),
            r"its member 'data/\.\./\.\./etc/passwd' is missing",
        ),
        (tensor("torch.UntypedStorage", "0", 96), r"a tensor without a dtype"),
        (
            storage(FLOATS, "0", 24, tag="module"),
            r"refers to something outside it that is no storage",
        ),
        (text("storage") + make.BINPERSID, r"refers to something outside it that is no storage"),
        (storage("collections.OrderedDict", "0", 24), r"a storage of no known kind"),
        (call("torch._utils._rebuild_tensor_v2"), r"makes no sense: TypeError"),
        (
            call("torch._utils._rebuild_parameter", integer(1), b"\x88", b"N"),
            r"a int where a Tensor belongs",
        ),
        (b"00", r"the opcode POP|makes no sense"),
        (b"h\x05", r"makes no sense: KeyError"),
        (b"\x85\x85\x85", r"."),
        (b"}" + b")" * 1 + integer(1) + b"s", r"a tuple as a key"),
        (b"}" + b"]" + integer(1) + b"s", r"a list as a key"),
        (b"]" + integer(1) + integer(2) + b"s", r"a list where a dict belongs"),
        (DEEP, r"nested more than 32 deep"),
        (WIDE, r"nested more than 32 deep|more than 1,000,000 values"),
        (b"\x8e" + b"\xff" * 8, r"."),
        (b"\x8b\xff\xff\xff\x7f", r"."),
    ],
)
def test_pickles_that_contradict_themselves_or_the_file(tmp_path, content, message):
    refused(
        archive(tmp_path / "a.pt", dictionary(w=content), {"0": NUMBERS}),
        rf"damaged or incomplete.*{message}|is refused.*{message}",
    )


def test_too_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "MAX_VALUES", 1000)
    wide = b"]q\x00" + make.MARK + b"N" * 99 + b"e"
    content = b"](" + wide + b"h\x00" * 99 + b"e"  # ten thousand values in three hundred bytes
    refused(archive(tmp_path / "a.pt", dictionary(w=content)), "more than 1,000 values")
    monkeypatch.setattr(torch_pickle, "MAX_BYTES", 100)
    monkeypatch.setattr(torch_files, "MAX_BYTES", 100)
    refused(archive(tmp_path / "a.pt", dictionary(w=text("a" * 200))), "bytes, and 100 are allowed")


def good(tmp_path):
    return archive(tmp_path / "good.pt", dictionary(w=WEIGHT), {"0": NUMBERS}).read_bytes()


def changed(content, old, new):
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content[:-30], "damaged or incomplete"),
        (lambda content: content[: len(content) // 2], "damaged or incomplete"),
        (lambda content: content[:10], "damaged or incomplete"),
        (lambda content: b"", "damaged or incomplete.*it is no zip archive"),
        (lambda content: b"<!DOCTYPE html>" + content, "it is no zip archive"),
        (
            lambda content: b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS .* git lfs pull",
        ),
        (
            lambda content: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + content,
            r"that torch wrote before 1\.6: .* torch\.save it again",
        ),
        (
            lambda content: changed(content, b"model/data.pkl", b"model/other.pk"),
            "it has no data.pkl",
        ),
        (lambda content: changed(content, b"model/data/0", b"other/data/0"), "outside its folder"),
        (
            lambda content: changed(content, b"model/byteorder", b"model/data.pkl\0"),
            "the same member twice|damaged",
        ),
        (lambda content: changed(content, b"PK\x03\x04", b"PK\x03\x05"), "it is no zip archive"),
    ],
)
def test_damaged_archives(tmp_path, change, message):
    file = tmp_path / "a.pt"
    file.write_bytes(change(good(tmp_path)))
    refused(file, message)


def test_every_truncation_and_many_flips_end_in_one_kind_of_error(tmp_path):
    content, file, rng = good(tmp_path), tmp_path / "a.pt", np.random.default_rng(0)
    for length in range(0, len(content) - 1, 25):
        file.write_bytes(content[:length])
        with pytest.raises(DataError):
            read(file)
    for _ in range(50):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        file.write_bytes(damaged)
        try:
            tensors = read(file)
        except DataError:
            continue
        assert all(tensor.nbytes <= len(content) for tensor in tensors.values())


def test_kinds_of_archives_that_are_not_read(tmp_path):
    refused(
        archive(tmp_path / "b.pt", dictionary(w=WEIGHT), {"0": NUMBERS}, byteorder=b"big"),
        "big-endian machine",
    )
    refused(
        archive(tmp_path / "c.pt", dictionary(w=WEIGHT), {"0": NUMBERS}, **{"constants.pkl": b"."}),
        "TorchScript archive",
    )
    bomb = {"0": np.zeros(10**6, np.float32)}
    squeezed = archive(
        tmp_path / "d.pt", dictionary(w=tensor(FLOATS, "0", 10**6)), bomb, zipfile.ZIP_DEFLATED
    )
    assert squeezed.stat().st_size < 20_000
    refused(squeezed, "its member .* is compressed or encrypted")
    refused(
        archive(tmp_path / "e.pt", WEIGHT, {"0": NUMBERS}),
        "it holds a tensor, where a dictionary of tensors was expected",
    )
    assert read(archive(tmp_path / "f.pt", b"}")) == {}


def test_two_tensors_of_one_joined_key(tmp_path):
    content = b"}" + make.MARK + text("a/b") + WEIGHT + text("a") + dictionary(b=WEIGHT) + b"u"
    refused(archive(tmp_path / "a.pt", content, {"0": NUMBERS}), "two of its tensors are 'a/b'")
