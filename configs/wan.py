"""Stage 1 from Wan2.1: a bidirectional model of single shots learns to film causally, across cuts,
with a memory.

    # Every folder that convert.py reads may be --config.init, so this step can be left out.
    python launch/convert.py --from Wan2.1-T2V-14B --out models/wan-14b
    python launch/train.py --config configs/wan.py:14b --config.init=models/wan-14b \\
        --config.data.store=STORE

The same with 1.3b in place of 14b. STORE holds films of 60 latent frames (20 chunks, 14.8 s) of
832x480 pixels, encoded by Wan's VAE, with UMT5's token ids. To learn cuts, films need two shots or
more: set least_shots to 2 in the file of `causalcine prepare --filters`. Without a store,
StoryWorld's films of 160x96 are encoded first: they show that everything fits together, and teach
nothing else.

The paper says: all noisy chunks of a film share one noise time, plain squared error, 100,000 films,
64 GPUs. It leaves out the other numbers. Some here are those of its relatives: AdamW at 1e-5, a
batch of 64 films, a few thousand steps, shift 5, captions dropped for a tenth of the films. The
others are our defaults: b2 0.95, weight decay 0.01, gradients clipped at 1, average at 0.999.

Bytes, the sum over all devices:
                                                          1.3B      14B
    weights, average, AdamW's moments (16 per parameter)  23 GB     229 GB
    kept of a film for the backward pass, with remat      34 GB     153 GB
The second is the residual stream in float32, once per layer. Accelerators also keep
self-attention's output in bfloat16, half as much again: 77 GB at 14B. With fewer than 64 devices,
--config.optim.accumulation cuts the batch.

14B on 64 devices, by launch/plan.py compile (benchmarks/results/):
--config.seq=8 --config.optim.accumulation=8 cuts a film over 8 devices, and needs 67.5 GB on each
H200 and 74.7 GB on each v5p. --config.remat_layers=5 keeps a third of the 153 GB and no attention,
and adds a third of the forward pass's time. With --config.segments_at_once=13 too, a v6e's 33.6 GB
are enough.
This stage has only been run at the sizes of tests (tests/training/test_train_from_wan.py).
"""

from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import preset
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    SampleConfig,
    TimeConfig,
    TrainConfig,
)

SIZES = ("1.3b", "14b")


def get_config(size: str = "1.3b") -> TrainConfig:
    if size not in SIZES:
        raise UsageError(f"configs/wan.py has no size {size!r}, {nearest(size, SIZES)}")
    wan = preset(f"wan-{size}")
    return TrainConfig(
        stage="teacher_forcing",
        out=f"outputs/wan-{size}",
        init=f"models/wan-{size}",
        steps=5000,
        batch=64,
        dtype="bfloat16",
        remat=True,
        train_text_encoder=False,
        transformer=wan.transformer,
        text_encoder=wan.text_encoder,
        vae=wan.vae,
        time=TimeConfig(shift=5.0, shared_by="film", weight="none"),
        optim=OptimConfig(
            optimizer="adamw", lr=1e-5, schedule="constant", warmup=100, b1=0.9, b2=0.95
        ),
        data=DataConfig(world="storyworld", threads=8),
        checkpoint=CheckpointConfig(every=100, keep=2),
        sample=SampleConfig(at_end=False, steps=50, guidance=wan.guidance),
    )
