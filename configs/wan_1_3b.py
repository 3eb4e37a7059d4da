"""Stage 1 from Wan2.1 1.3B: a bidirectional model of single shots learns to film causally, across cuts, with a memory.

    python launch/convert.py --from Wan2.1-T2V-1.3B --out models/wan-1.3b     # or nothing: every folder that convert reads will do as init
    python launch/train.py --config configs/wan_1_3b.py --config.init=models/wan-1.3b --config.data.store=STORE

STORE holds films of 60 latent frames (20 chunks, 14.8 s) of 480x832 pixels, encoded by Wan's VAE, with UMT5's token ids. Where there is none,
StoryWorld's films of 96x160 are encoded first: they show that everything fits together, and teach nothing else.

From the paper: all noisy chunks of a film share one noise time, plain squared error, 100,000 films, 64 GPUs. It leaves out the numbers; these are what
its relatives use: AdamW at 1e-5, a batch of 64 films, a few thousand steps, shift 5, captions dropped for a tenth of the films. Weights, average
and AdamW's moments are 16 bytes per parameter (23 GB), cut over all devices; with fewer than 64 of them, --config.optim.accumulation cuts the batch.

With remat, a film of that length keeps 34 GB for its backward pass (the residual stream in float32, once per layer). This file's stage has been run at
tests' sizes only (tests/test_train_from_wan.py), never at full size.
"""

from ml_collections import ConfigDict

from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
    TrainConfig,
)
from causalcine_jax.training.flags import config_dict

WAN = preset("wan-1.3b")


def get_config() -> ConfigDict:
    return config_dict(
        TrainConfig(
            stage="teacher_forcing",
            out="outputs/wan-1.3b",
            init="models/wan-1.3b",
            steps=5000,
            batch=64,
            dtype="bfloat16",
            remat=True,
            train_text_encoder=False,
            transformer=WAN.transformer,
            text_encoder=WAN.text_encoder,
            vae=WAN.vae,
            time=TimeConfig(shift=5.0, shared_by="film", weight="none"),
            optim=OptimConfig(
                optimizer="adamw", lr=1e-5, schedule="constant", warmup=100, b1=0.9, b2=0.95
            ),
            data=DataConfig(world="storyworld", threads=8),
            checkpoint=CheckpointConfig(every=500, keep=2),
            sample=SampleConfig(at_end=False, steps=50, guidance=WAN.guidance),
        )
    )
