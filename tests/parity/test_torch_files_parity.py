"""Files of torch.save are read byte for byte; pickles that torch would run are refused."""

import collections

import numpy as np
import pytest
import torch

from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_read_equal(file, expected: dict[str, torch.Tensor]) -> None:
    with open_tensors(file) as tensors:
        assert tensors.shapes == {key: tuple(tensor.shape) for key, tensor in expected.items()}
        for key, tensor in expected.items():
            assert np.ascontiguousarray(tensors.read(key)).tobytes() == bytes_of(tensor), key


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.uint16,
    torch.uint32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@pytest.mark.parametrize("protocol", [2, 4])
def test_dtypes_views_and_nesting(tmp_path, protocol):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    flat = {str(dtype): (10 * base).abs().to(dtype) for dtype in DTYPES}
    flat |= {
        "transposed": base.T,
        "rows": base[2:4],
        "columns": base[:, 1:7:2],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
    }
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(5, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    saved = {
        **flat,
        "generator": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "rng": torch.get_rng_state(),
    }
    saved |= {
        "config": {
            "lr": 1e-5,
            "names": ["a", None],
            "dtype": torch.bfloat16,
            "device": torch.device("cpu"),
            "size": base.shape,
        }
    }
    torch.save(saved, tmp_path / "a.pt", pickle_protocol=protocol)
    expected = {**flat, "rng": saved["rng"]}
    expected |= {f"generator/{key}": tensor for key, tensor in module.state_dict().items()}
    expected |= {
        f"optimizer/state/{i}/{key}": tensor
        for i, state in optimizer.state_dict()["state"].items()
        for key, tensor in state.items()
    }
    assert_read_equal(tmp_path / "a.pt", expected)


def test_flat_state_dicts(tmp_path):
    tensors = collections.OrderedDict((f"blocks.{i}.weight", torch.randn(i, 3)) for i in range(4))
    torch.save(tensors, tmp_path / "flat.pth")
    assert_read_equal(tmp_path / "flat.pth", tensors)


class Anything:
    pass


def test_unsupported_pickles_are_refused(tmp_path):
    weight = torch.ones(2)
    torch.save({"w": weight, "module": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with pytest.raises(DataError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        assert_read_equal(tmp_path / "module.pt", {})
    torch.save({"w": weight, "x": Anything()}, tmp_path / "class.pt")
    with pytest.raises(DataError, match=r"asks for .*test_torch_files_parity\.Anything"):
        assert_read_equal(tmp_path / "class.pt", {})
    torch.save({"w": weight}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"the format that torch wrote before 1\.6"):
        assert_read_equal(tmp_path / "old.pt", {})
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(DataError, match="TorchScript archive"):
        assert_read_equal(tmp_path / "script.pt", {})
    torch.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(DataError, match=r"asks for torch\._utils\._rebuild_sparse_tensor"):
        assert_read_equal(tmp_path / "sparse.pt", {})
    torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "conjugated.pt")
    with pytest.raises(DataError, match="asks for a conjugated or negated view"):
        assert_read_equal(tmp_path / "conjugated.pt", {})
