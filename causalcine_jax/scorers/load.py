"""Loads the scorers' networks from the files that their projects publish.

    file -> its format by its keys -> our keys, as views of its tensors -> sizes from the shapes
         -> the module, filled by convert's loader

The weights are read by convert's own readers: safetensors and torch's zip files, without torch.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.convert import tables
from causalcine_jax.convert.checkpoint_keys import plain_key
from causalcine_jax.convert.describe import check_places
from causalcine_jax.convert.load import fill
from causalcine_jax.convert.tensor_files import TensorFiles, open_tensors
from causalcine_jax.errors import DataError
from causalcine_jax.scorers import key_tables
from causalcine_jax.scorers.key_tables import RULES, Format, View
from causalcine_jax.scorers.sources import Source, refuse_absent
from causalcine_jax.scorers.vit import (
    CLIP_EPS,
    DINO_EPS,
    HEAD_DIM,
    LayerSizes,
    TextEncoder,
    TextSizes,
    ViT,
    ViTSizes,
)


@dataclass(frozen=True)
class ViewedTensor:
    """One of our tensors: a view of a published one."""

    source: str
    view: View
    shape: tuple[int, ...]


class ScorerTensors:
    """The tensors of one network of a file under our keys, as `convert.load.fill` reads them."""

    def __init__(self, network: str, tensors: TensorFiles, path: Path, source: Source):
        self.part, self.path = network, path
        plain = {plain_key(key): key for key in tensors.shapes}
        found = key_tables.format_of(network, plain)
        if found is None:
            names = " or ".join(each.name for each in key_tables.FORMATS[network])
            raise DataError(
                f"{path} does not hold {source.what}: its keys are not those of {names} "
                f"(they begin with {', '.join(sorted(plain)[:3]) or 'nothing'})"
            )
        self._tensors, self.absent = tensors, tensors.absent
        self._viewed: dict[str, ViewedTensor] = {}
        unknown = self._add(found, plain)
        if unknown:
            raise DataError(
                f"{path} looks like {found.name}, but has tensors unknown to that format: "
                f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}"
            )
        self.shapes = {key: viewed.shape for key, viewed in self._viewed.items()}
        self.dtypes = {key: tensors.dtypes[viewed.source] for key, viewed in self._viewed.items()}

    def _add(self, found: Format, plain: dict[str, str]) -> list[str]:
        """Adds the views of every known tensor; returns the keys of the unknown ones."""
        unknown = []
        for name, saved in plain.items():
            if not name.startswith(found.prefix):
                continue
            name = name.removeprefix(found.prefix)
            lines = found.line_of(name)
            if not lines and not re.fullmatch(found.ignored, name):
                unknown.append(saved)
            example = np.broadcast_to(np.False_, self._tensors.shapes[saved])
            for ours, view in lines:
                try:
                    shape = view(example).shape
                except IndexError:
                    raise DataError(
                        f"{self.path}: {saved} has the shape {example.shape}, "
                        f"which {found.name}'s never has"
                    ) from None
                self._viewed[ours] = ViewedTensor(saved, view, shape)
        return unknown

    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        viewed = self._viewed[key]
        return viewed.view(self._tensors.read(viewed.source))[index]

    def source_key(self, key: str) -> str:
        return self._viewed[key].source if key in self._viewed else key


def load_vit(network: str, path: str | Path, source: Source) -> ViT:
    """Loads a vision transformer.

    Args:
      network: clip, dino, dinov2 or viclip_vision.
      path: the file, or a folder of shards.
      source: what it should be, for messages.

    Raises:
      DataError: the file is missing, damaged, or of another network.
    """
    with _opened(network, path, source) as ours:
        sizes = _vit_sizes(network, ours, source)
        return _filled(lambda: ViT(sizes, key=jax.random.key(0)), ours, source)


def vit_sizes(network: str, path: str | Path, source: Source) -> ViTSizes:
    """The sizes of a vision transformer, from the file's header alone. Raises as `load_vit`."""
    with _opened(network, path, source) as ours:
        return _vit_sizes(network, ours, source)


def load_text_encoder(path: str | Path, source: Source) -> TextEncoder:
    """Loads ViCLIP's text encoder from ViCLIP's file. Raises as `load_vit` does."""
    with _opened("viclip_text", path, source) as ours:
        vocabulary, _ = _axes(ours, source, "tokens", 2)
        length, _ = _axes(ours, source, "positions", 2)
        _, out = _axes(ours, source, "projection", 2)
        sizes = TextSizes(_layer_sizes(ours, source, True, scaled=False), vocabulary, length, out)
        return _filled(lambda: TextEncoder(sizes, key=jax.random.key(0)), ours, source)


@contextlib.contextmanager
def _opened(network: str, path: str | Path, source: Source) -> Iterator[ScorerTensors]:
    with open_tensors(refuse_absent(path, source)) as tensors:
        yield ScorerTensors(network, tensors, Path(path), source)


def _vit_sizes(network: str, ours: ScorerTensors, source: Source) -> ViTSizes:
    clip = network in ("clip", "viclip_vision")
    return ViTSizes(
        _layer_sizes(ours, source, clip, scaled=network == "dinov2"),
        patch=_axes(ours, source, "patch", 4)[2],
        positions=_axes(ours, source, "positions", 2)[0],
        frames=_axes(ours, source, "frame_positions", 2)[0] if network == "viclip_vision" else 0,
        out=_axes(ours, source, "projection", 2)[1] if clip else 0,
    )


def _layer_sizes(ours: ScorerTensors, source: Source, clip: bool, scaled: bool) -> LayerSizes:
    mlp_dim, dim = _axes(ours, source, "layers.0.fc1.weight", 2)
    if dim % HEAD_DIM:
        raise DataError(f"{ours.path}: a width of {dim} is no multiple of {HEAD_DIM}, a head's")
    count = len({key.split(".")[1] for key in ours.shapes if key.startswith("layers.")})
    return LayerSizes(
        dim, mlp_dim, count, quick=clip, eps=CLIP_EPS if clip else DINO_EPS, scaled=scaled
    )


def _axes(ours: ScorerTensors, source: Source, key: str, count: int) -> tuple[int, ...]:
    shape = ours.shapes.get(key)
    if shape is None or len(shape) != count:
        found = "is missing" if shape is None else f"has the shape {shape}"
        raise DataError(f"{ours.path} does not hold {source.what}: its tensor {key} {found}")
    return shape


def _filled(make, ours: ScorerTensors, source: Source):
    shapes = jax.eval_shape(make)
    places = tables.places(shapes, RULES)
    check_places(f"{ours.path} does not hold {source.what}", places, ours)
    return fill(shapes, places, ours, jnp.float32)
