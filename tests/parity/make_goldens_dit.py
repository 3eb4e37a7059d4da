"""Writes tests/goldens/dit.npz: outputs of Diffusers' WanTransformer3DModel.

`make test` compares ours to them without torch. The file holds the config, the weights under the
original Wan2.1 keys, and per case x, t, text and velocity. Run with the extra `parity` installed:

    PYTHONPATH=tests/support python tests/parity/make_goldens_dit.py
"""

import dataclasses
import json

import numpy as np
from repository import GOLDENS
from torch_models import wan_transformer
from wan_weights import TRANSFORMER, transformer_tensors

GOLDENS_FILE = GOLDENS / "dit.npz"


def main():
    tensors = transformer_tensors(TRANSFORMER)
    velocity = wan_transformer(TRANSFORMER, tensors)
    arrays = {"config": np.array(json.dumps(dataclasses.asdict(TRANSFORMER)))}
    arrays |= {f"weights/{key}": tensor for key, tensor in tensors.items()}
    rng = np.random.default_rng(0)
    for case, (shape, t) in {
        "image": ((1, 1, 4, 2), [1000.0]),
        "films": ((2, 3, 4, 6), [20.0, 637.5]),
    }.items():
        x = rng.standard_normal((*shape, TRANSFORMER.in_dim), np.float32)
        text = rng.standard_normal(
            (shape[0], TRANSFORMER.text_len, TRANSFORMER.text_dim), np.float32
        )
        text[:, 4:] = 0  # a prompt of four tokens, padded with zeros, not masked
        t = np.array(t, np.float32)
        arrays |= {
            f"{case}/x": x,
            f"{case}/t": t,
            f"{case}/text": text,
            f"{case}/velocity": velocity(x, t, text),
        }
    np.savez_compressed(GOLDENS_FILE, **arrays)


if __name__ == "__main__":
    main()
