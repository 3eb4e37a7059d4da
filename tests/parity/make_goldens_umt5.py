"""Writes tests/goldens/umt5.npz: outputs of transformers' UMT5EncoderModel.

`make test` compares ours to them without torch. The file holds the config, the weights under the
original Wan2.1 keys, and per case ids, mask and embeddings (padding rows zero). Run with the extra
`parity` installed:

    PYTHONPATH=tests/support python tests/parity/make_goldens_umt5.py
"""

import dataclasses
import json

import numpy as np
from repository import GOLDENS
from torch_models import umt5_encoder
from wan_weights import TEXT_ENCODER, text_encoder_tensors

GOLDENS_FILE = GOLDENS / "umt5.npz"


def main():
    tensors = text_encoder_tensors(TEXT_ENCODER)
    encode = umt5_encoder(TEXT_ENCODER, tensors)
    arrays = {"config": np.array(json.dumps(dataclasses.asdict(TEXT_ENCODER)))}
    arrays |= {f"weights/{key}": tensor for key, tensor in tensors.items()}
    rng = np.random.default_rng(0)
    for case, lengths in {"short": [6, 3, 1], "long": [40, 25]}.items():
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        ids = rng.integers(1, TEXT_ENCODER.vocab_size, mask.shape).astype(np.int32) * mask
        arrays |= {
            f"{case}/ids": ids,
            f"{case}/mask": mask,
            f"{case}/embeddings": encode(ids, mask) * mask[..., None],
        }
    np.savez_compressed(GOLDENS_FILE, **arrays)


if __name__ == "__main__":
    main()
