"""A run small enough for tests: two layers, random latents of 4x4.

Also a config file: `launch/train.py --config tests/support/tiny_training.py`.
"""

from pathlib import Path

import numpy as np

from causalcine_jax.config import MemoryConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)

TEXT_LEN = 8


def tiny_config(out="", store="", **changes) -> TrainConfig:
    settings = {
        "out": str(out) or "outputs/tiny",
        "steps": 12,
        "batch": 4,
        "log_every": 2,
        "transformer": TransformerConfig(
            dim=24,
            ffn_dim=32,
            num_heads=2,
            num_layers=2,
            text_dim=16,
            text_len=TEXT_LEN,
            freq_dim=16,
        ),
        "text_encoder": TextEncoderConfig(
            vocab_size=160, dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1
        ),
        "vae": VAEConfig(4, 16, (1, 1, 1, 1), 1, mean=(0.0,) * 16, std=(1.0,) * 16),
        "memory": MemoryConfig("camr", 1, 2),
        "optim": OptimConfig(lr=3e-3, warmup=3, ema_decay=0.9),
        "data": DataConfig(store=str(store), clip_frames=2),
        "checkpoint": CheckpointConfig(every=4, export_dtype="float32"),
        "sample": SampleConfig(at_end=False),
    }
    return TrainConfig(**{**settings, **changes})


def get_config():
    return tiny_config()


def tiny_store(path: Path, films: int = 16, seed: int = 0, frames: int = 9) -> LatentStore:
    """Films of 9 latent frames: one constant picture and a little noise, which can be learned."""
    shot_of_chunk = np.array([0, 0, 1], np.int32)[-(frames // 3) :]
    spec = StoreSpec(
        films=films,
        latent_frames=frames,
        height=4,
        width=4,
        shots=2,
        text_len=TEXT_LEN,
        source={},
        vae="",
        tokenizer="",
        films_per_shard=8,
    )
    writer, rng = LatentStoreWriter(path, spec), np.random.default_rng(seed)
    for shard in writer.pending():
        records = []
        for _ in shard:
            ids = np.zeros((2, TEXT_LEN), np.int32)
            ids[:, :5], ids[:, 5] = rng.integers(3, 100, (2, 5)), 1
            picture = rng.standard_normal((1, 4, 4, 16))
            latents = np.broadcast_to(picture, (frames, 4, 4, 16)) + 0.1 * rng.standard_normal(
                (frames, 4, 4, 16)
            )
            records.append(NewRecord(latents.astype(np.float32), ids, shot_of_chunk, ["a", "b"]))
        writer.write(shard, records)
    return writer.finish()
