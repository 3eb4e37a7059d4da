"""Handmade .pt files that are read: storages, views, nesting, protocols, large archives."""

import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_archives as make
from torch_archives import archive, call, dictionary, integer, name, storage, tensor, text, tuple_of
from torch_reading import FLOATS, NUMBERS, read

from causalcine_jax.convert import torch_pickle
from causalcine_jax.convert.tensor_files import open_tensors


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
