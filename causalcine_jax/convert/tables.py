"""Key tables between Wan2.1 checkpoints and our parameters, one per network, in both directions.

A `Rule` is one line of a table: a pattern of parameter paths, the checkpoint's key for them, and
the two axis orders. Checkpoints hold torch layouts and one tensor per layer. We hold channels-last
layouts and all layers stacked on a leading axis. `places` applies a table to a module's tree of
shapes, and gives every tensor that a checkpoint of that module must hold.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from einops import rearrange

Dtypes = Any | Callable[[str], Any]  # one dtype for all parameters, or one by a parameter's path


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    path   pattern of a parameter's full path in our module
    key    the checkpoint's key, with the pattern's groups; "{layer}" means one tensor per layer,
           stacked in our parameter
    torch  axes of the checkpoint's tensor (einops)
    ours   axes of our parameter, without the layer axis
    """

    path: str
    key: str
    torch: str = "..."
    ours: str = "..."

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        return rearrange(tensor, f"{self.torch} -> {self.ours}")

    def torch_slices(self, index: tuple[slice, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The slice `index` of our axes, as (slice of the checkpoint's tensor, slice after it).

        The second slice applies once the tensor is in our layout. Axes that we hold merged are read
        in full and sliced in our layout.
        """
        if self.torch == "...":
            return index, ()
        ours = dict(zip(re.findall(r"\(.*?\)|\S+", self.ours), index, strict=True))
        theirs = tuple(ours.get(axis, slice(None)) for axis in self.torch.split())
        return theirs, tuple(part if "(" in axis else slice(None) for axis, part in ours.items())

    def to_torch(self, parameter: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
        """The checkpoint's tensor. `sizes` are needed for axes that we hold merged."""
        return rearrange(parameter, f"{self.ours} -> {self.torch}", **sizes)


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a checkpoint and its place in our module.

    `shape` is the checkpoint's; `layer` is None where nothing is stacked.
    """

    key: str
    path: str
    layer: int | None
    shape: tuple[int, ...]
    rule: Rule
    sizes: dict[str, int]

    def read(self, tensors, index: tuple[slice, ...]) -> np.ndarray:
        """The slice `index` of our parameter, without its layer axis; reads no more than that."""
        theirs, rest = self.rule.torch_slices(index)
        return self.rule.to_ours(tensors.read_slice(self.key, theirs))[rest]

    def to_torch(self, parameter: np.ndarray) -> np.ndarray:
        """The checkpoint's tensor, from our full parameter (with all layers, if stacked)."""
        return self.rule.to_torch(
            parameter if self.layer is None else parameter[self.layer], self.sizes
        )


LINEAR = ("o i", "i o")
CONV3D = ("o i t h w", "t h w i o")
CONV2D = ("o i h w", "h w i o")

# Wan2.1 wan/modules/model.py, WanModel. The first matching rule applies.
TRANSFORMER = (
    Rule(r"patch_embedding\.weight", r"patch_embedding.weight", "o i t h w", "(i t h w) o"),
    Rule(r"patch_embedding\.bias", r"patch_embedding.bias"),
    Rule(r"(text_embedding|time_embedding|time_projection)_(\d)\.weight", r"\1.\2.weight", *LINEAR),
    Rule(r"(text_embedding|time_embedding|time_projection)_(\d)\.bias", r"\1.\2.bias"),
    Rule(r"blocks\.modulation", r"blocks.{layer}.modulation", "1 six d", "six d"),
    Rule(
        r"blocks\.(self_attn|cross_attn)\.([qkvo])\.weight", r"blocks.{layer}.\1.\2.weight", *LINEAR
    ),
    Rule(r"blocks\.ffn_(\d)\.weight", r"blocks.{layer}.ffn.\1.weight", *LINEAR),
    Rule(r"blocks\.ffn_(\d)\.bias", r"blocks.{layer}.ffn.\1.bias"),
    Rule(
        r"blocks\.((self_attn|cross_attn)\.([qkvo]\.bias|norm_[qk]\.weight)|norm3\.(weight|bias))",
        r"blocks.{layer}.\1",
    ),
    Rule(r"head_modulation", r"head.modulation", "1 two d", "two d"),
    Rule(r"head\.weight", r"head.head.weight", *LINEAR),
    Rule(r"head\.bias", r"head.head.bias"),
    Rule(r"skip\.(gate|value|out)\.weight", r"skip.\1.weight", *LINEAR),  # ours
    Rule(r"skip\.(gate|value|out)\.bias", r"skip.\1.bias"),
)

# Wan2.1 wan/modules/vae.py, WanVAE_. Layers whose names end in a number are list entries.
VAE = (
    Rule(r"(.+\.\d+)\.norm1\.gamma", r"\1.residual.0.gamma", "c 1 1 1", "c"),
    Rule(r"(.+\.\d+)\.conv1\.weight", r"\1.residual.2.weight", *CONV3D),
    Rule(r"(.+\.\d+)\.conv1\.bias", r"\1.residual.2.bias"),
    Rule(r"(.+\.\d+)\.norm2\.gamma", r"\1.residual.3.gamma", "c 1 1 1", "c"),
    Rule(r"(.+\.\d+)\.conv2\.weight", r"\1.residual.6.weight", *CONV3D),
    Rule(r"(.+\.\d+)\.conv2\.bias", r"\1.residual.6.bias"),
    Rule(r"(.+\.\d+)\.(shortcut|time_conv)\.weight", r"\1.\2.weight", *CONV3D),
    Rule(r"(.+\.\d+)\.conv\.weight", r"\1.resample.1.weight", *CONV2D),
    Rule(r"(.+\.\d+)\.conv\.bias", r"\1.resample.1.bias"),
    Rule(r"(.+\.middle\.1)\.norm\.gamma", r"\1.norm.gamma", "c 1 1", "c"),
    Rule(r"(.+\.middle\.1)\.(to_qkv|proj)\.weight", r"\1.\2.weight", *CONV2D),
    Rule(r"(.+\.\d+)\.(shortcut|time_conv|to_qkv|proj)\.bias", r"\1.\2.bias"),
    Rule(r"(encoder|decoder)\.head\.norm\.gamma", r"\1.head.0.gamma", "c 1 1 1", "c"),
    Rule(r"(encoder|decoder)\.head\.conv\.weight", r"\1.head.2.weight", *CONV3D),
    Rule(r"(encoder|decoder)\.head\.conv\.bias", r"\1.head.2.bias"),
    Rule(r"((encoder\.|decoder\.)?conv[12])\.weight", r"\1.weight", *CONV3D),
    Rule(r"((encoder\.|decoder\.)?conv[12])\.bias", r"\1.bias"),
)

# madebyollin/taehv, taehv.py, TAEHV: the decoder is one list of layers, six per stage.
_STAGE = {0: 3, 1: 9, 2: 15}
TINY_DECODER = (
    Rule(r"conv_in\.(bias)", r"decoder.1.\1"),
    Rule(r"conv_in\.(weight)", r"decoder.1.\1", *CONV2D),
    *(
        rule
        for stage, first in _STAGE.items()
        for rule in (
            *(
                Rule(
                    rf"stages\.{stage}\.blocks\.{block}\.conv\.{conv}\.{name}",
                    rf"decoder.{first + block}.conv.{2 * conv}.{name}",
                    *axes,
                )
                for block in range(3)
                for conv in range(3)
                for name, axes in (("weight", CONV2D), ("bias", ()))
            ),
            Rule(rf"stages\.{stage}\.grow", rf"decoder.{first + 4}.conv.weight", *CONV2D),
            Rule(rf"stages\.{stage}\.conv\.weight", rf"decoder.{first + 5}.weight", *CONV2D),
        )
    ),
    Rule(r"conv_out\.(bias)", r"decoder.22.\1"),
    Rule(r"conv_out\.(weight)", r"decoder.22.\1", *CONV2D),
)

# Wan2.1 wan/modules/t5.py, T5Encoder.
TEXT_ENCODER = (
    Rule(r"token_embedding", r"token_embedding.weight"),
    Rule(r"blocks\.attn\.([qkvo])\.weight", r"blocks.{layer}.attn.\1.weight", *LINEAR),
    Rule(r"blocks\.ffn\.gate_0\.weight", r"blocks.{layer}.ffn.gate.0.weight", *LINEAR),
    Rule(r"blocks\.ffn\.(fc[12])\.weight", r"blocks.{layer}.ffn.\1.weight", *LINEAR),
    Rule(r"blocks\.pos_embedding", r"blocks.{layer}.pos_embedding.embedding.weight"),
    Rule(r"blocks\.(norm[12])\.weight", r"blocks.{layer}.\1.weight"),
    Rule(r"norm\.weight", r"norm.weight"),
)


def dtype_of(dtypes: Dtypes, path: str) -> np.dtype:
    """The dtype of the parameter at `path`: one for all, or what the function of paths says."""
    named = callable(dtypes) and not isinstance(dtypes, type)
    own: Any = dtypes(path) if named else dtypes
    return np.dtype(own)


def parameters(module) -> dict[str, Any]:
    """Path -> parameter (or its abstract shape) of a module, in tree order.

    A path is such as "blocks.ffn_0.weight".
    """
    leaves = jax.tree_util.tree_leaves_with_path(module)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in leaves
    }


def places(module, rules: Iterable[Rule], patch_size: tuple[int, ...] = ()) -> list[TensorPlace]:
    """Every tensor of a checkpoint of `module`, with the layers of one parameter in order.

    Args:
      module: the module, or its shapes from `jax.eval_shape` (nothing is computed).
      rules: the network's table.
      patch_size: (t, h, w) of a transformer, whose patch embedding is a matrix here and a
        convolution in the checkpoint.
    """
    compiled = [(re.compile(rule.path), rule) for rule in rules]
    found = []
    for path, leaf in parameters(module).items():
        fitting = [(m, rule) for pattern, rule in compiled if (m := pattern.fullmatch(path))]
        if not fitting:
            raise KeyError(f"no rule of the key table names the parameter {path!r}")
        match, rule = fitting[0]
        key = match.expand(rule.key)
        sizes = dict(zip("thw", patch_size, strict=True)) if "(" in rule.ours else {}
        stacked = "{layer}" in key
        # Only the shape of this array matters.
        example = np.broadcast_to(np.False_, leaf.shape[1:] if stacked else leaf.shape)
        shape = rule.to_torch(example, sizes).shape
        if stacked:
            found += [
                TensorPlace(key.format(layer=i), path, i, shape, rule, sizes)
                for i in range(leaf.shape[0])
            ]
        else:
            found.append(TensorPlace(key, path, None, shape, rule, sizes))
    return found
