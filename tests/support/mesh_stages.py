"""Every stage of training and of making films, small enough to compile for eight devices.

on_eight_devices.py runs them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tiny_models import random_weights, tiny_model

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.models.discriminator import Discriminator
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.parallel import sharding
from causalcine_jax.training.config import TimeConfig
from causalcine_jax.training.stages.dmd import DistributionMatching, critic_loss, generator_loss
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.ode import ODEInit, ode_init_loss
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig, student_rollout
from causalcine_jax.training.stages.teacher_forcing import TeacherForcing, teacher_forcing_loss

FILMS, CHUNK = 8, 3
HEIGHT, WIDTH = 12, 16  # 48 tokens a frame, 144 a chunk
SIZES = TransformerConfig(
    dim=48,
    ffn_dim=64,
    num_heads=8,
    num_layers=2,
    text_dim=16,
    text_len=8,
    in_dim=4,
    out_dim=4,
    freq_dim=16,
)
TEXT = TextEncoderConfig(64, dim=16, dim_attn=16, dim_ffn=32, num_heads=2, num_layers=2)
MEMORY = MemoryConfig("camr", 1, 2)
NULL = (1, 0, 0, 0, 0, 0, 0, 0)
KEY = jax.random.key(0)
FORCING = SelfForcingConfig(steps=2, grad_frames=6)


class Stage(NamedTuple):
    """`compute(*networks, batch)` returns the results to compare, by name.

    Networks are dicts; a batch is sharded along its films.
    """

    compute: Callable[..., dict[str, Any]]
    networks: tuple[dict[str, Any], ...]
    batch: dict[str, np.ndarray]


def transformer(seed: int) -> Transformer:
    return random_weights(lambda key: Transformer(SIZES, key=key), seed)


def text_encoder(seed: int) -> UMT5Encoder:
    return random_weights(lambda key: UMT5Encoder(TEXT, key=key), seed)


def films(chunks: int) -> dict[str, np.ndarray]:
    """Returns films of two shots; from three chunks on, routing has frames to choose from."""
    rng = np.random.default_rng(0)
    return {
        "latents": rng.standard_normal((FILMS, chunks * CHUNK, HEIGHT, WIDTH, 4)).astype(
            np.float32
        ),
        "token_ids": rng.integers(1, 64, (FILMS, 2, 8)).astype(np.int32),
        "shot_of_chunk": np.tile(np.arange(chunks, dtype=np.int32) * 2 // chunks, (FILMS, 1)),
    }


def training(loss, trained: dict[str, Any], fixed: dict[str, Any], chunks: int) -> Stage:
    """Computes the loss and its gradient in each trained network."""

    def compute(trained, fixed, batch):
        value, gradients = jax.value_and_grad(lambda nets: loss(nets, fixed, batch, KEY)[0])(
            trained
        )
        return {"loss": value, **gradients}

    return Stage(compute, (trained, fixed), films(chunks))


def teacher_forcing() -> Stage:
    task = TeacherForcing(NULL, PassConfig(MEMORY, remat=1), TimeConfig())
    return training(
        teacher_forcing_loss(task),
        {"transformer": transformer(0), "text_encoder": text_encoder(1)},
        {},
        chunks=4,
    )


def ode_init() -> Stage:
    task = ODEInit(
        NULL,
        FORCING.sampler,
        SamplerConfig("euler", 4, FORCING.shift, guidance=2.0),
        PassConfig(MEMORY),
    )
    return training(
        ode_init_loss(task),
        {"student": transformer(0)},
        {"teacher": transformer(1), "text_encoder": text_encoder(3)},
        chunks=3,
    )


def dmd_generator() -> Stage:
    task = DistributionMatching(
        NULL, PassConfig(MEMORY), FORCING, gan=GANConfig(taps=(1.0,)), rollout_weights="gathered"
    )
    return training(
        generator_loss(task), {"student": transformer(0)}, {**scores(), "head": head()}, chunks=3
    )


def dmd_critic() -> Stage:
    task = DistributionMatching(
        NULL,
        PassConfig(MEMORY),
        FORCING,
        gan=GANConfig(taps=(1.0,), trunk=True),
        rollout_weights="sharded",
    )
    fixed = scores() | {"student": transformer(0)}
    return training(
        critic_loss(task), {"fake_score": fixed.pop("fake_score"), "head": head()}, fixed, chunks=3
    )


def scores() -> dict[str, Any]:
    return {
        "teacher": transformer(1),
        "fake_score": transformer(2),
        "text_encoder": text_encoder(3),
    }


def head() -> Discriminator:
    return random_weights(lambda key: Discriminator(SIZES.dim, 1, key=key), 4)


def rollout() -> Stage:
    """Embeds prompts and rolls a student out on them; returns films and the cache."""

    def compute(nets, batch):
        text = nets["text_encoder"](batch["token_ids"], batch["token_ids"] != 0)
        how = (SelfForcingConfig(steps=2, exit="last"), PassConfig(MEMORY, CHUNK))
        student = sharding.place_rollout_weights(nets["transformer"], "gathered")
        made = student_rollout(
            student, text, batch["shot_of_chunk"], batch["latents"].shape[2:], KEY, *how
        )
        return {
            "text": text,
            "film": made.x0,
            "pool": (made.pool.k, made.pool.v, made.pool.descriptors),
        }

    return Stage(
        compute, ({"transformer": transformer(0), "text_encoder": text_encoder(1)},), films(4)
    )


def autoencoder() -> Stage:
    """Encodes video to mean and log-variance, and separately decodes other latents to video."""

    def compute(nets, batch):
        return {
            "latents": nets["vae"].encode_moments(batch["video"]),
            "video": nets["vae"].decode_raw(batch["latents"]),
        }

    rng = np.random.default_rng(0)
    batch = {
        "video": np.clip(rng.standard_normal((FILMS, 5, 16, 32, 3)), -1, 1).astype(np.float32),
        "latents": rng.standard_normal((FILMS, 2, 4, 8, 16)).astype(np.float32),
    }
    return Stage(compute, ({"vae": tiny_model().vae},), batch)


STAGES = {
    stage.__name__: stage
    for stage in (teacher_forcing, ode_init, dmd_generator, dmd_critic, rollout, autoencoder)
}
