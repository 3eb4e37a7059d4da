"""StoryWorld on a laptop: a small causal transformer, on two CPU cores.

    python launch/train.py --config configs/base.py

Films have 80x48 pixels and 30 latent frames (10 chunks, 7.3 s). The run first encodes films with
the embedded VAE, then trains, and leaves outputs/base/{model,loss.png,metrics.jsonl,samples}. Then:

    python launch/generate.py --model outputs/base/model --story examples/demo.yaml \\
        --out outputs/film
    python launch/evaluate.py --model outputs/base/model --world base --out outputs/evaluation
"""

from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
    TrainConfig,
)

BASE = preset("storyworld-base")


def get_config() -> TrainConfig:
    return TrainConfig(
        stage="teacher_forcing",
        out="outputs/base",
        steps=600,
        batch=4,
        remat=True,  # on a CPU recomputing is cheaper than the memory traffic of keeping
        log_every=10,
        transformer=BASE.transformer,
        text_encoder=BASE.text_encoder,
        time=TimeConfig(shift=3.0, weight="sigma"),
        optim=OptimConfig(optimizer="muon", lr=2e-3, warmup=50, ema_decay=0.99),
        data=DataConfig(world="base", films=400),
        checkpoint=CheckpointConfig(every=100, keep=2),
        sample=SampleConfig(steps=20, guidance=2.0),
    )
