"""Stage 1 from Wan2.1 14B: a bidirectional model of single shots learns to film causally, across cuts, with a memory.

    python launch/convert.py --from Wan2.1-T2V-14B --out models/wan-14b     # or nothing: every folder that convert reads will do as init
    python launch/train.py --config configs/wan_14b.py --config.init=models/wan-14b --config.data.store=STORE

STORE holds films of 60 latent frames (20 chunks, 14.8 s) of 480x832 pixels, encoded by Wan's VAE, with UMT5's token ids. Where there is none,
StoryWorld's films of 96x160 are encoded first: they show that everything fits together, and teach nothing else.

From the paper: all noisy chunks of a film share one noise time, plain squared error, 100,000 films, 64 GPUs. It leaves out the numbers; these are what
its relatives use: AdamW at 1e-5, a batch of 64 films, a few thousand steps, shift 5, captions dropped for a tenth of the films. Weights, average
and AdamW's moments are 16 bytes per parameter (229 GB), cut over all devices; with fewer than 64 of them, --config.optim.accumulation cuts the batch.

With remat, a film of that length keeps 153 GB for its backward pass (the residual stream in float32, once per layer). On 64 devices, with --config.seq=8
--config.optim.accumulation=8, a film is cut over 8 of them: less than 65 GB on each H200 or v5p, by launch/plan.py compile (benchmarks/results/). With
--config.remat_layers=5 as well it keeps a third of the 153 GB, for a third of the forward's time more, and with --config.segments_at_once=13 a v6e's 33.5 GB are enough. This file's stage has been run at tests' sizes only (tests/test_train_from_wan.py).
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

WAN = preset("wan-14b")


def get_config() -> ConfigDict:
    return config_dict(
        TrainConfig(
            stage="teacher_forcing",
            out="outputs/wan-14b",
            init="models/wan-14b",
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
