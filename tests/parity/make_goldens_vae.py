"""Writes tests/goldens/vae.npz: outputs of Diffusers' AutoencoderKLWan.

`make test` compares ours to them without torch. The file holds the config and the weights under the
original Wan2.1 keys (float16). Per case it holds a video (uint8), its normalised latents and their
decoded video. Run with the extra `parity` installed:

    PYTHONPATH=tests/support python tests/parity/make_goldens_vae.py
"""

import dataclasses
import json

import numpy as np
from diffusers_vae import TINY, diffusers_vae, vae_tensors
from repository import GOLDENS

GOLDENS_FILE = GOLDENS / "vae.npz"


def main():
    tensors = {key: tensor.astype(np.float16) for key, tensor in vae_tensors(TINY).items()}
    encode, decode = diffusers_vae(
        TINY, {key: tensor.astype(np.float32) for key, tensor in tensors.items()}
    )
    arrays = {"config": np.array(json.dumps(dataclasses.asdict(TINY)))}
    arrays |= {f"weights/{key}": tensor for key, tensor in tensors.items()}
    rng = np.random.default_rng(0)
    for case, frames in {"image": 1, "film": 13}.items():
        video = rng.integers(0, 256, (1, frames, 8, 16, 3), dtype=np.uint8)
        latents = encode(video.astype(np.float32) / 127.5 - 1)
        arrays |= {
            f"{case}/video": video,
            f"{case}/latents": latents,
            f"{case}/decoded": decode(latents),
        }
    np.savez_compressed(GOLDENS_FILE, **arrays)


if __name__ == "__main__":
    main()
