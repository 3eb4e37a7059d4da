"""The networks that score films, ready for frames of any size.

    frames -> preprocess -> batches of one size -> a network -> features of length 1

Every program is compiled once per size of frames: batches are filled up with their last frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.scorers import preprocess
from causalcine_jax.scorers.load import load_text_encoder, load_vit, vit_sizes
from causalcine_jax.scorers.preprocess import Preprocessing, pixels_of, positions_for
from causalcine_jax.scorers.sources import SOURCES, Source, refuse_absent
from causalcine_jax.scorers.tokenizer import ClipTokenizer
from causalcine_jax.scorers.vit import TextEncoder, ViT

# Frames of one call: enough to fill two cores, and little memory.
BATCH = 16
# A measure and the files that it needs.
NEEDS = {
    "aesthetic": ("clip_l14", "aesthetic"),
    "text alignment": ("viclip", "tokenizer"),
    "subject consistency": ("dino",),
    "background consistency": ("clip_b32",),
    "inter-shot consistency": ("dinov2",),
}
_KINDS = {
    "clip_b32": ("clip", preprocess.CLIP),
    "clip_l14": ("clip", preprocess.CLIP),
    "dino": ("dino", preprocess.DINO),
    "dinov2": ("dinov2", preprocess.DINOV2),
    "viclip": ("viclip_vision", preprocess.VICLIP),
}
_features = jax.jit(lambda net, pixels, positions: net(pixels, positions))
_text_features = jax.jit(lambda net, ids: net(ids))


def unit(features: np.ndarray) -> np.ndarray:
    """Features of length 1, over the last axis."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Embedder:
    """A network for single pictures."""

    net: ViT
    how: Preprocessing

    def __call__(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        found = []
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            filled = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), axis=0)])
            pixels = pixels_of(filled, self.how)
            positions = positions_for(self.net, *pixels.shape[1:3])
            found.append(np.asarray(_features(self.net, pixels, positions))[: len(batch)])
        return unit(np.concatenate(found))


@dataclass(frozen=True)
class ClipAndText:
    """ViCLIP: clips of `net.sizes.frames` pictures, and captions."""

    net: ViT
    text: TextEncoder
    tokenizer: ClipTokenizer

    def clip(self, frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " d"]:
        pixels = pixels_of(frames, preprocess.VICLIP)
        return unit(np.asarray(_features(self.net, pixels[None], None))[0])

    def caption(self, caption: str) -> tuple[Float[np.ndarray, " d"], int]:
        """(the feature, the number of the caption's tokens that the encoder never saw)."""
        ids, lost = self.tokenizer.encode(caption, self.text.sizes.length)
        return unit(np.asarray(_text_features(self.text, ids[None]))[0]), lost


class Scorers:
    """The networks of which the user named the files, loaded when they are first used.

    Args:
      paths: of the files, by their names in `SOURCES`.
      dtype: that the networks compute in. Features and scores are float32.

    Raises:
      DataError: a named file is missing.
    """

    def __init__(self, paths: Mapping[str, Path], dtype=jnp.float32):
        for name, path in paths.items():
            refuse_absent(path, SOURCES[name])
        self._paths, self._dtype = dict(paths), dtype

    def missing(self, measure: str) -> list[Source]:
        """The files that `measure` needs and that nobody named."""
        return [SOURCES[name] for name in NEEDS[measure] if name not in self._paths]

    @property
    def left_out(self) -> dict[str, str]:
        """The measures that are not computed, each with the files that it lacks."""
        return {
            measure: "no weights were named: " + "; ".join(each.describe() for each in missing)
            for measure in NEEDS
            if (missing := self.missing(measure))
        }

    def pictures(self, name: str) -> Embedder:
        """The network for single pictures called `name`, one of `sources.PICTURES`."""
        return getattr(self, name)

    @cached_property
    def clip_l14(self) -> Embedder:
        return self._embedder("clip_l14")

    @cached_property
    def clip_b32(self) -> Embedder:
        return self._embedder("clip_b32")

    @cached_property
    def dino(self) -> Embedder:
        return self._embedder("dino")

    @cached_property
    def dinov2(self) -> Embedder:
        return self._embedder("dinov2")

    @cached_property
    def aesthetic_head(self) -> "AestheticHead":
        return AestheticHead.load(self._paths["aesthetic"])

    @cached_property
    def viclip(self) -> ClipAndText:
        path, source = self._paths["viclip"], SOURCES["viclip"]
        text = cast_weights(load_text_encoder(path, source), self._dtype)
        return ClipAndText(self._net("viclip"), text, ClipTokenizer.load(self._paths["tokenizer"]))

    def _embedder(self, name: str) -> Embedder:
        return Embedder(self._net(name), _KINDS[name][1])

    def _net(self, name: str) -> ViT:
        net = load_vit(_KINDS[name][0], self._paths[name], SOURCES[name])
        return cast_weights(net, self._dtype)

    def notes(self, clip_frames: int) -> list[str]:
        """A line for every network that is not of the paper's size.

        Reads the headers of all files, so that a wrong one is refused before the first film.

        Args:
          clip_frames: of the clips that ViCLIP is given.
        """
        lines = []
        for name, (network, _) in _KINDS.items():
            if name not in self._paths:
                continue
            source = SOURCES[name]
            sizes = vit_sizes(network, self._paths[name], source)
            if sizes.frames not in (0, clip_frames):
                raise DataError(
                    f"{self._paths[name]} reads clips of {sizes.frames} frames, and a shot is "
                    f"given as {clip_frames}: name {source.describe()}"
                )
            found = (sizes.layers.dim, sizes.patch, sizes.layers.count, sizes.positions)
            if found != (source.dim, source.patch, source.layers, source.positions):
                lines.append(
                    f"{name} has width {found[0]}, patches of {found[1]}, {found[2]} layers and "
                    f"{found[3]} positions, so it is not {source.what}, and its numbers do not "
                    "compare"
                )
        return lines


@dataclass(frozen=True)
class AestheticHead:
    """LAION's head, linear or an MLP without activations: affine maps, one after the other."""

    maps: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def load(cls, path: Path) -> "AestheticHead":
        """Reads the linear head of LAION-AI, or the MLP of improved-aesthetic-predictor.

        Raises:
          DataError: the file is damaged or neither of the two.
        """
        with open_tensors(path) as tensors:
            keys = sorted(key for key in tensors.shapes if key.endswith("weight"))
            maps = [
                (
                    np.asarray(tensors.read(key), np.float32),
                    np.asarray(tensors.read(bias), np.float32),
                )
                for key in keys
                if (bias := key.removesuffix("weight") + "bias") in tensors.shapes
            ]
            fits = len(maps) * 2 == len(tensors.shapes) and maps and maps[-1][0].shape[0] == 1
            if not fits or any(
                before[0].shape[0] != after[0].shape[1] for before, after in zip(maps, maps[1:])
            ):
                raise DataError(
                    f"{path} is not {SOURCES['aesthetic'].describe()}: "
                    f"its keys begin with {', '.join(sorted(tensors.shapes)[:3]) or 'nothing'}"
                )
        return cls(tuple(maps))

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Scores of about 1..10.

        Raises:
          DataError: the head was made for features of another width.
        """
        if features.shape[1] != self.maps[0][0].shape[1]:
            raise DataError(
                f"the aesthetic head reads features of width {self.maps[0][0].shape[1]}, and the "
                f"network gives {features.shape[1]}: it needs CLIP ViT-L/14"
            )
        for weight, bias in self.maps:
            features = features @ weight.T + bias
        return features[:, 0]
