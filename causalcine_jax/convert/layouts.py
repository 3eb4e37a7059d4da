"""The files of a converted model: each tensor's file and name, and the small files beside them.

Two layouts: our model folder (original Wan2.1 keys) and Diffusers' (WanPipeline.from_pretrained).
Nothing is written here.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.convert import diffusers_configs
from causalcine_jax.convert.describe import Description
from causalcine_jax.convert.diffusers_tables import key_table
from causalcine_jax.convert.find import PARTS
from causalcine_jax.convert.formats import PartTensors
from causalcine_jax.convert.metadata import METADATA
from causalcine_jax.convert.safetensors_files import READABLE_DTYPES, header
from causalcine_jax.convert.save import WEIGHTS, config_json

_DIFFUSERS_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# Beside tokenizer.json; transformers reads these.
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "spiece.model")


@dataclass(frozen=True)
class Network:
    """One network of the source."""

    part: str
    tensors: PartTensors
    description: Description


@dataclass(frozen=True)
class TargetTensor:
    """One tensor to write.

    key    its original key in `source`
    name   its name in the target
    dtype  safetensors' name of the target dtype
    """

    source: PartTensors
    key: str
    name: str
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shapes[self.key]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * READABLE_DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Shard:
    """One .safetensors file of the target; `file` is relative to the target folder."""

    file: str
    tensors: tuple[TargetTensor, ...]

    @property
    def header(self) -> bytes:
        return header((tensor.name, tensor.shape, tensor.dtype) for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class FolderLayout:
    """A complete target: files of tensors, and small files by relative name."""

    shards: list[Shard]
    documents: dict[str, bytes]


def model_folder(
    networks: list[Network],
    dtype: str | None,
    shard_bytes: int,
    tokenizer: dict[str, bytes],
    metadata: dict[str, Any],
) -> FolderLayout:
    """Our model folder.

    Args:
      dtype: safetensors' name of every tensor's target dtype; None keeps each one's.
      shard_bytes: the most bytes of a file, except that a file holds at least one tensor.
      tokenizer: the text encoder's tokenizer.json and the files beside it, by name; empty without
        an encoder, or where there is no tokenizer.
      metadata: the content of metadata.json.
    """
    shards, documents = [], {METADATA: json_bytes(metadata)}
    for network in networks:
        tensors = [
            TargetTensor(network.tensors, key, key, dtype or network.tensors.dtypes[key])
            for key in network.tensors.shapes
        ]
        shards += _sharded(network.part, WEIGHTS[network.part], tensors, shard_bytes, documents)
        documents[f"{network.part}/config.json"] = json_bytes(
            config_json(network.part, network.description.config)
        )
        if network.part == "text_encoder" and tokenizer:
            documents["text_encoder/tokenizer.json"] = tokenizer["tokenizer.json"]
    return FolderLayout(shards, documents)


def diffusers(
    networks: list[Network],
    dtype: str | None,
    shard_bytes: int,
    tokenizer: dict[str, bytes],
    shift: float,
) -> FolderLayout:
    """Diffusers' folder; with all three networks a complete WanPipeline.

    `shift` is the flow shift of its UniPC scheduler.
    """
    shards: list[Shard] = []
    documents: dict[str, bytes] = {}
    for network in networks:
        table = key_table(network.part, network.tensors.shapes)
        tensors = [
            TargetTensor(
                network.tensors,
                key,
                table.to_diffusers(key) or key,
                dtype or network.tensors.dtypes[key],
            )
            for key in network.tensors.shapes
        ]
        shards += _sharded(
            network.part, _DIFFUSERS_WEIGHTS[network.part], tensors, shard_bytes, documents
        )
        settings = getattr(diffusers_configs, network.part)(network.description.config)
        documents[f"{network.part}/config.json"] = json_bytes(settings)
        if network.part == "text_encoder" and tokenizer:
            documents |= _tokenizer(tokenizer)
    if {network.part for network in networks} == set(PARTS):
        documents["scheduler/scheduler_config.json"] = json_bytes(_scheduler(shift))
        documents["model_index.json"] = json_bytes(_MODEL_INDEX)
    return FolderLayout(shards, documents)


def _sharded(
    part: str, name: str, tensors: list[TargetTensor], shard_bytes: int, documents: dict[str, bytes]
) -> list[Shard]:
    """The tensors split into files, in order; adds the index to `documents` for several files."""
    groups: list[list[TargetTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    if len(groups) == 1:
        return [Shard(f"{part}/{name}.safetensors", tuple(tensors))]
    files = [f"{name}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    where = {
        tensor.name: file for file, group in zip(files, groups, strict=True) for tensor in group
    }
    total = sum(tensor.nbytes for tensor in tensors)
    documents[f"{part}/{name}.safetensors.index.json"] = json_bytes(
        {"metadata": {"total_size": total}, "weight_map": where}
    )
    return [
        Shard(f"{part}/{file}", tuple(group)) for file, group in zip(files, groups, strict=True)
    ]


def tokenizer_files(file: Path) -> dict[str, bytes]:
    """A tokenizer.json, and the files beside it that transformers reads, by name."""
    beside = {
        name: (file.parent / name).read_bytes()
        for name in _TOKENIZER_FILES
        if (file.parent / name).is_file()
    }
    return {"tokenizer.json": file.read_bytes(), **beside}


def _tokenizer(files: dict[str, bytes]) -> dict[str, bytes]:
    plain = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    return {
        "tokenizer/tokenizer_config.json": json_bytes(plain),
        **{f"tokenizer/{name}": content for name, content in files.items()},
    }


_MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.36.0",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def _scheduler(shift: float) -> dict[str, Any]:
    return {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": "0.36.0",
        "flow_shift": shift,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }


def json_bytes(value: dict[str, Any]) -> bytes:
    """A JSON file in this project's formatting."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
