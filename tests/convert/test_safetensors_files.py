"""Safetensors headers: files written by the safetensors library, and refusal of false headers."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError

DATA = bytes(range(24))


def written(tmp_path, header, data=DATA, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(first, last, shape=None, dtype="U8"):
    return {
        "dtype": dtype,
        "shape": [last - first] if shape is None else shape,
        "data_offsets": [first, last],
    }


def test_what_the_library_writes(tmp_path):
    rng = np.random.default_rng(0)
    dtypes = (
        np.float64,
        np.float32,
        np.float16,
        ml_dtypes.bfloat16,
        np.int64,
        np.int32,
        np.int8,
        np.uint8,
    )
    tensors = {
        f"a.{np.dtype(dtype).name}": (100 * rng.random((3, 5))).astype(dtype) for dtype in dtypes
    }
    tensors |= {
        "scalar": np.array(3, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "odd": np.arange(3, dtype=np.uint8),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"format": "np"})
    with open_tensors(tmp_path / "a.safetensors") as files:
        assert files.shapes == {key: tensor.shape for key, tensor in tensors.items()}
        for key, tensor in tensors.items():
            assert (
                files.read(key).dtype == tensor.dtype
                and files.read(key).tobytes() == tensor.tobytes()
            )
        part = files.read_slice("a.bfloat16", (slice(1, 3), slice(0, 4, 3)))
        assert np.array_equal(part, tensors["a.bfloat16"][1:3, 0:4:3]) and not part.flags.owndata


def test_tensors_that_are_not_aligned(tmp_path):
    header = {
        "byte": entry(0, 1),
        "floats": entry(1, 17, [2, 2], "F32"),
        "halves": entry(17, 23, [3], "BF16"),
        "last": entry(23, 24),
    }
    with open_tensors(written(tmp_path, header)) as files:
        assert np.array_equal(
            files.read("floats").astype(np.float64).ravel(), np.frombuffer(DATA[1:17], np.float32)
        )
        assert np.array_equal(
            files.read("halves").astype(np.float32),
            np.frombuffer(DATA[17:23], ml_dtypes.bfloat16).astype(np.float32),
        )


def test_a_dtype_that_is_not_known_has_a_shape_and_is_not_read(tmp_path):
    with open_tensors(
        written(tmp_path, {"packed": entry(0, 24, [48], "F4"), "__metadata__": {"a": "b"}})
    ) as files:
        assert files.shapes == {"packed": (48,)} and files.dtypes == {"packed": "F4"}
        with pytest.raises(DataError, match="packed is F4, which is not read here"):
            files.read("packed")


@pytest.mark.parametrize(
    "header, message",
    [
        ({"a": entry(0, 16), "b": entry(8, 24)}, "invalid offset for tensor `b`"),
        ({"a": entry(0, 24), "b": entry(0, 24)}, "invalid offset for tensor `[ab]`"),
        ({"a": entry(0, 8), "b": entry(16, 24)}, "invalid offset for tensor `b`"),
        ({"a": entry(4, 24)}, "invalid offset for tensor `a`"),
        ({"a": entry(0, 25)}, "file not fully covered"),
        ({"a": entry(0, 20)}, "file not fully covered"),
        ({"a": entry(0, 2**62)}, "overflow"),
        ({"a": entry(0, 24, [7], "F32")}, "invalid shape"),
        ({"a": entry(0, 24, [2**62, 2**62], "F32")}, "overflow"),
        ({"a": entry(0, 24, [-24])}, "`-24`"),
        ({"a": entry(0, 24, [2**64, 0])}, "expected usize"),
        ({"a": entry(0, 24, [1] * 32 + [24])}, "a has 33 axes"),
        ({"a": entry(0, 24, [True, 24])}, "boolean `true`"),
        ({"a": entry(0, 24, "24")}, "expected a sequence"),
        ({"a": {**entry(0, 24), "data_offsets": [24, 0]}}, "invalid offset for tensor `a`"),
        ({"a": {**entry(0, 24), "data_offsets": [0, 24.0]}}, "`24.0`"),
        ({"a": {**entry(0, 24), "data_offsets": [0]}}, "expected a tuple of size 2"),
        ({"a": {**entry(0, 24), "dtype": 8}}, "integer `8`"),
        ({"a": {**entry(0, 24), "dtype": "I4"}}, "unknown variant `I4`"),
        ({"a": [0, 24]}, "integer `0`"),
        ({"a": ["U8", [24], [0, 24]]}, "."),
        ({"\x1b[2J\n" * 1000: entry(4, 24)}, r"invalid offset for tensor `(\\x1b\[2J ?)+"),
        ([], "sequence"),
        (b"{", "EOF"),
        (b'{"\xff": 0}', "utf-8"),
        (b"[" * 100_000, "."),
        (b'{"a": ' + b"9" * 10_000 + b"}", "number out of range"),
        (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "duplicate field `dtype`"),
    ],
)
def test_false_headers(tmp_path, header, message):
    file = written(tmp_path, header)
    with (
        pytest.raises(
            DataError,
            match=rf"is damaged or incomplete, or no safetensors file \(.*{message}.*\); "
            r"copy or download it again",
        ) as error,
        open_tensors(file),
    ):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "length, message",
    [
        (2**64 - 1, "header too large"),
        (100_000_001, "header too large"),
        (99_999_999, "invalid header length"),
        (10**15, "header too large"),
        (10**6, "invalid header length"),
    ],
)
def test_headers_that_are_too_long(tmp_path, length, message):
    with (
        pytest.raises(DataError, match=message),
        open_tensors(written(tmp_path, {"a": entry(0, 24)}, length=length)),
    ):
        pass


def test_of_two_entries_of_one_name_the_last_holds(tmp_path):
    twice = (
        json.dumps({"a": entry(0, 24)})[:-1] + ", " + json.dumps({"a": entry(0, 24, [4, 6])})[1:]
    )
    with open_tensors(written(tmp_path, twice.encode())) as files:
        assert files.shapes == {"a": (4, 6)}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "header too small"),
        (b"1234", "header too small"),
        (b"version https://git-lfs.git", "is a pointer of Git LFS"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=message), open_tensors(tmp_path / "a.safetensors"):
        pass


@pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors"])
def test_an_index_stays_in_its_folder(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(DataError, match="names shards outside its folder"), open_tensors(tmp_path):
        pass
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": 5}}))
    with pytest.raises(DataError, match="is not an index of shards"), open_tensors(tmp_path):
        pass
