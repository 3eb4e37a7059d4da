"""The tensors of a checkpoint by key: a safetensors file, a torch.save file, a folder of shards.

The content decides the format, not the name. `safetensors_files` and `torch_files` locate and check
the tensors. Here files are memory-mapped, and a tensor or slice is a view. The disk is read on
access, and mapped pages do not count as this process's own memory.
"""

import contextlib
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from causalcine_jax.convert import safetensors_files, torch_files
from causalcine_jax.convert.metadata import read_json
from causalcine_jax.convert.stored import NUMPY_DTYPES, StoredTensor
from causalcine_jax.errors import DataError, disk_faults

_LFS_POINTER = b"version https://git-lfs"
_GGUF = b"GGUF"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # torch.save since 1.6, and before
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of every file that can be read
FORMATS = ("safetensors", "bin")  # of shards in a folder, the preferred one first


class TensorFiles:
    """The tensors of one or more `files`.

    `shapes` and `dtypes` (safetensors' names) come from the headers; `absent` are the keys that an
    index lists and no file has.
    """

    def __init__(self, files: list[Path], listed: Iterable[str] = ()):
        self.files = files
        self._stored: dict[str, StoredTensor] = {}
        self._mapped: dict[Path, mmap.mmap] = {}
        for file in files:
            for key, stored in _locate(file).items():
                if key in self._stored:
                    raise DataError(
                        f"tensor {key} is in both {self._stored[key].file} and {file}; "
                        "remove the file that does not belong"
                    )
                self._stored[key] = stored
        self.shapes = {key: stored.shape for key, stored in self._stored.items()}
        self.dtypes = {key: stored.dtype for key, stored in self._stored.items()}
        self.absent = [key for key in listed if key not in self._stored]

    def metadata(self) -> dict[str, str]:
        """The free text of safetensors headers; with several files, later ones win."""
        return {
            name: text
            for file in self.files
            if not _of_torch(file)
            for name, text in safetensors_files.metadata(file).items()
        }

    def read(self, key: str) -> np.ndarray:
        """A tensor, as a read-only view of its file."""
        return self.read_slice(key, ())

    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor, as a read-only view of its file."""
        stored = self._stored[key]
        if stored.dtype not in NUMPY_DTYPES:
            raise DataError(f"{stored.file}: {key} is {stored.dtype}, which is not read here")
        try:
            if stored.file not in self._mapped:
                with open(stored.file, "rb") as file:
                    self._mapped[stored.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.asarray(stored.view(self._mapped[stored.file])[index])
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{stored.file} changed after it was opened, or cannot be read ({error})"
            ) from error

    def close(self) -> None:
        """Releases the files; a view in use keeps its own file open."""
        self._mapped.clear()


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFiles]:
    """Opens a safetensors or torch.save file, or a folder of .safetensors or .bin.

    Of a folder: the shards that its index names, else all such files. Keys of a .pt are those of
    its nested dictionaries, joined: "generator/model.blocks.0...".

    Raises:
      DataError: nothing there, missing shards (all named), or a damaged or malicious file.
    """
    found, listed = _find(path)
    files = TensorFiles(found, listed)
    try:
        yield files
    finally:
        files.close()


def _locate(file: Path) -> dict[str, StoredTensor]:
    start = _start(file)
    if start == _LFS_POINTER:
        raise DataError(
            f"{file} is a pointer of Git LFS and not the file itself: fetch it with git lfs pull"
        )
    if start.startswith(_GGUF):
        raise DataError(
            f"{file} is GGUF, whose quantised blocks are not read: take the bf16, fp16 or "
            "fp8_scaled .safetensors of the same model"
        )
    if file.name.endswith(".index.json"):
        raise DataError(f"{file} is an index of shards: name its folder, {file.parent}")
    if not _of_torch(file) and start[8:9] != b"{" and file.suffix not in SUFFIXES:
        raise DataError(
            f"{file} is no file of tensors that can be read: expected safetensors, "
            "or what torch.save writes"
        )
    return (torch_files if _of_torch(file) else safetensors_files).locate(file)


def _start(file: Path) -> bytes:
    with disk_faults(f"{file} cannot be read"), open(file, "rb") as opened:
        return opened.read(len(_LFS_POINTER))


def _of_torch(file: Path) -> bool:
    """Whether torch.save wrote the file, by its first bytes.

    The suffix counts only if the content is neither format, for the error message.
    """
    start = _start(file)
    # A safetensors header may also begin with 0x80, if it has 128 bytes.
    if start.startswith((_ZIP, _PICKLE)) and not (len(start) > 8 and start[8:9] == b"{"):
        return True
    return file.suffix in SUFFIXES[1:] and start[8:9] != b"{"


def _find(path: Path) -> tuple[list[Path], list[str]]:
    """(the files at `path`, the tensors that their index lists)."""
    if path.is_file():
        return [path], []
    indices = next(
        (found for kind in FORMATS if (found := sorted(path.glob(f"*.{kind}.index.json")))), []
    )
    if not indices:
        files = next((found for kind in FORMATS if (found := sorted(path.glob(f"*.{kind}")))), [])
        if not files:
            raise DataError(f"no .safetensors file in {path}")
        return files, []
    try:
        listed = {
            key: shard for index in indices for key, shard in read_json(index)["weight_map"].items()
        }
        shards = sorted(set(listed.values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
    except (DataError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{' or '.join(map(str, indices))} is not an index of shards ({error}); "
            "copy or download it again"
        ) from error
    if outside:
        raise DataError(
            f"{' or '.join(map(str, indices))} names shards outside its folder: "
            f"{', '.join(map(ascii, outside[:3]))}"
        )
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise DataError(
            f"shards missing in {path}: {', '.join(missing)}; copy or download them again"
        )
    return [path / shard for shard in shards], list(listed)
