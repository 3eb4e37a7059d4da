"""Handmade .pt files: valid ones are read; bad and malicious ones give an error and run nothing."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_archives as make
from torch_archives import archive, call, dictionary, integer, name, storage, tensor, text, tuple_of

from causalcine_jax.convert import torch_files, torch_pickle
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError

NUMBERS = np.arange(24, dtype=np.float32)
FLOATS = "torch.FloatStorage"


def read(file):
    with open_tensors(file) as tensors:
        return {key: np.array(tensors.read(key)) for key in tensors.shapes}


def refused(file, message):
    with pytest.raises(DataError, match=message) as error:
        read(file)
    assert (
        str(error.value).startswith(str(file))
        and "\n" not in str(error.value)
        and len(str(error.value)) < len(str(file)) + 500
    )


@pytest.mark.parametrize(
    "kind, dtype, known_as",
    [
        (FLOATS, np.float32, "F32"),
        ("torch.BFloat16Storage", ml_dtypes.bfloat16, "BF16"),
        ("torch.HalfStorage", np.float16, "F16"),
        ("torch.DoubleStorage", np.float64, "F64"),
        ("torch.LongStorage", np.int64, "I64"),
        ("torch.ByteStorage", np.uint8, "U8"),
        ("torch.BoolStorage", np.bool_, "BOOL"),
    ],
)
def test_every_kind_of_storage(tmp_path, kind, dtype, known_as):
    values = (NUMBERS % 2 if dtype is np.bool_ else NUMBERS).astype(dtype)
    with open_tensors(
        archive(tmp_path / "a.pt", dictionary(w=tensor(kind, "0", 24, (4, 6))), {"0": values})
    ) as tensors:
        assert tensors.shapes == {"w": (4, 6)} and tensors.dtypes == {"w": known_as}
        assert tensors.read("w").dtype == dtype and np.array_equal(
            tensors.read("w"), values.reshape(4, 6)
        )
        assert np.array_equal(
            tensors.read_slice("w", (slice(1, 3), slice(0, 6, 2))), values.reshape(4, 6)[1:3, ::2]
        )


def test_views_of_one_storage(tmp_path):
    views = {
        "part": tensor(FLOATS, "0", 24, (2, 3), offset=5),
        "transposed": tensor(FLOATS, "0", 24, (6, 4), (1, 6)),
        "columns": tensor(FLOATS, "0", 24, (4, 2), (6, 1), offset=3),
        "scalar": tensor(FLOATS, "0", 24, (), offset=23),
        "empty": tensor(FLOATS, "0", 24, (0, 7), offset=24),
        "one": tensor(FLOATS, "0", 24, (1, 24), (2**62, 1)),
    }
    tensors = read(archive(tmp_path / "a.pth", dictionary(**views), {"0": NUMBERS}))
    grid = NUMBERS.reshape(4, 6)
    assert np.array_equal(tensors["part"], NUMBERS[5:11].reshape(2, 3))
    assert np.array_equal(tensors["transposed"], grid.T)
    assert np.array_equal(tensors["columns"], grid[:, 3:5])
    assert tensors["scalar"].shape == () and tensors["scalar"] == 23
    assert tensors["empty"].shape == (0, 7)
    assert np.array_equal(tensors["one"], NUMBERS[None])


def test_what_a_training_run_saves(tmp_path):
    """Nested dictionaries, parameters, a state dict's version notes, numbers beside the tensors."""
    weight = tensor(FLOATS, "0", 24, (4, 6))
    parameter = call(
        "torch._utils._rebuild_parameter", weight, b"\x88", call("collections.OrderedDict")
    )
    state_dict = (
        call("collections.OrderedDict")
        + make.MARK
        + text("model.w")
        + parameter
        + b"u"
        + dictionary(_metadata=b"N")
        + b"b"
    )
    newer = call(
        "torch._utils._rebuild_tensor_v3",
        storage("torch.storage.UntypedStorage", "1", 8),
        integer(1),
        tuple_of(integer(3)),
        tuple_of(integer(1)),
        b"\x89",
        call("collections.OrderedDict"),
        name("torch.uint16"),
    )
    plain = {
        "size": call("torch.Size", tuple_of(integer(2), integer(3))),
        "dtype": name("torch.bfloat16"),
        "device": call("torch.device", text("cuda"), integer(0)),
        "step": integer(10**30),
        "tags": call("__builtin__.set", b"](" + text("a") + text("b") + b"e"),
        "rng": call("_codecs.encode", text("\xff"), text("latin1")),
    }
    moments = b"]" + newer + b"a"
    content = dictionary(generator=state_dict, optimizer=dictionary(moments=moments), **plain)
    tensors = read(
        archive(tmp_path / "a.pt", content, {"0": NUMBERS, "1": np.arange(4, dtype=np.uint16)})
    )
    assert tensors.keys() == {"generator/model.w", "optimizer/moments/0"}
    assert np.array_equal(tensors["generator/model.w"], NUMBERS.reshape(4, 6))
    assert np.array_equal(tensors["optimizer/moments/0"], np.array([1, 2, 3], np.uint16))


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_every_protocol_of_pickle(tmp_path, protocol):
    value = {
        "a": [1, -1, 2**40, 1.5, None, True, "é\u4e2d"],
        "b": ({"c": ()}, {1: "d", 2.5: b"e"}, {"f"}, frozenset("g")),
    }
    assert torch_pickle.read_pickle(pickle.dumps(value, protocol)) == value


def test_large_archives_and_folders_of_other_names(tmp_path, monkeypatch):
    """Zip archives beyond 4 GB use other fields; a low limit makes a small one use them."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
    file = archive(tmp_path / "a.pt", dictionary(w=tensor(FLOATS, "0", 24)), {"0": NUMBERS})
    assert b"PK\x06\x06" in file.read_bytes()  # the end record of zip64
    assert np.array_equal(read(file)["w"], NUMBERS)


def test_tensors_are_mapped_and_not_copied(tmp_path):
    with open_tensors(
        archive(tmp_path / "a.pt", dictionary(w=tensor(FLOATS, "0", 24)), {"0": NUMBERS})
    ) as tensors:
        kept = tensors.read("w")
        assert not kept.flags.owndata and not kept.flags.writeable
    assert np.array_equal(kept, NUMBERS)  # a view stays readable after the files are closed


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
def test_nothing_is_run(tmp_path, protocol, function, shown):
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


WEIGHT = tensor(FLOATS, "0", 24)
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
