"""Stage 1: the causal transformer learns velocities of chunks given clean history (paper Eq. 5).

    films' latents, token ids -> prompts embedded, some films' captions dropped
        -> noise, and a time per film -> noisy = point on the path
        -> teacher_forced(clean, noisy) -> mean squared error of the velocity

The small text encoder is trained along, through the same loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.training.config import TimeConfig
from causalcine_jax.training.stages.prompts import embed
from causalcine_jax.training.state import Metrics, Nets, weighted
from causalcine_jax.utils.arrays import AnyArray

BUCKETS = 4  # equal parts of 0..1000 that the error is also logged for
OWN_TIMES = (100.0, 700.0)  # of the predictions in history: below, no errors; above, no characters


@dataclass(frozen=True)
class TeacherForcing:
    """What the loss needs beside networks and data.

    null_prompt  token ids [T] of ""
    passes       how the transformer's pass runs
    """

    null_prompt: tuple[int, ...]
    passes: PassConfig
    time: TimeConfig
    caption_dropout: float = 0.1


def teacher_forcing_loss(
    task: TeacherForcing,
) -> Callable[[Nets, Nets, dict[str, Array], Array], tuple[Float[Array, ""], Metrics]]:
    """The loss (trained, fixed, batch, key) -> (loss, metrics).

    transformer and text_encoder may be in either dict of networks. A batch with "text" needs no
    text_encoder.
    """

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        key_time, key_noise, key_captions, key_history = jax.random.split(key, 4)
        net, shots = nets["transformer"], batch["shot_of_chunk"]
        clean = batch["latents"].astype(jnp.float32)
        films, frames = clean.shape[:2]
        drop = lambda prompts, null: drop_captions(
            prompts, null, task.caption_dropout, key_captions
        )
        if "text" in batch:
            text = drop(batch["text"], batch["null_text"][:, None])
        else:
            ids = drop(batch["token_ids"], jnp.asarray(task.null_prompt))
            text = embed(nets["text_encoder"], ids)
        draws, chunks = task.time.draws, frames // task.passes.chunk_frames
        t = noise_times(key_time, films * draws, chunks, task.time)
        t = jnp.broadcast_to(t.reshape(films, draws, -1), (films, draws, chunks))
        t = t.reshape(films, -1)
        target = jnp.tile(clean, (1, draws, 1, 1, 1))
        noise = jax.random.normal(key_noise, target.shape)
        history = clean
        if task.time.own_history:
            key_chosen, key_own = jax.random.split(key_history)
            own = own_predictions(net, clean, text, shots, task.passes, key=key_own)
            chosen = jax.random.bernoulli(key_chosen, task.time.own_history, (films, chunks))
            chosen = jnp.repeat(chosen, task.passes.chunk_frames, axis=1)
            history = jnp.where(chosen[:, :, None, None, None], own, clean)
        noisy = flow.add_noise(target, noise, t)
        velocity = teacher_forced(net, history, noisy, t, text, shots, task.passes)
        error = jnp.square(velocity.astype(jnp.float32) - flow.velocity_target(target, noise))
        error = jnp.mean(error, axis=(2, 3, 4))  # [B, K F]
        t = flow.per_frame(t, draws * frames)
        weight = flow.loss_weight(t, task.time.weight, s=task.time.shift)
        if "chunk_weight" in batch:
            by_chunk = batch["chunk_weight"] / jnp.mean(batch["chunk_weight"])
            by_frame = jnp.repeat(by_chunk, task.passes.chunk_frames, axis=1)
            weight = weight * jnp.tile(by_frame, (1, draws))
        return jnp.mean(weight * error), error_by_time(error, t)

    return loss


def own_predictions(
    net: Transformer,
    clean: Float[Array, "b f h w c"],
    text: Float[Array, "b shots tokens text_dim"],
    shots: Int[Array, "b n"],
    passes: PassConfig,
    *,
    key: Array,
) -> Float[Array, "b f h w c"]:
    """Every chunk as the network predicts it from a noisy copy and clean history; no gradient."""
    films, frames = clean.shape[:2]
    key_time, key_noise = jax.random.split(key)
    low, high = OWN_TIMES
    chunks = frames // passes.chunk_frames
    t = jax.random.uniform(key_time, (films, chunks), minval=low, maxval=high)
    noisy = flow.add_noise(clean, jax.random.normal(key_noise, clean.shape), t)
    net, text = jax.lax.stop_gradient((net, text))
    velocity = teacher_forced(net, clean, noisy, t, text, shots, passes)
    return flow.x0_from_velocity(noisy, velocity.astype(jnp.float32), t)


def noise_times(key, films: int, chunks: int, config: TimeConfig) -> Float[Array, "..."]:
    """Times in (0, 1000], one per film [B] or per chunk [B, N].

    With config.stratified, one time comes from each B-th of the schedule.
    """
    if config.shared_by == "chunk":
        return flow.sample_time(key, (films, chunks), config.shift)
    if not config.stratified:
        return flow.sample_time(key, (films,), config.shift)
    return flow.stratified_times(key, films, config.shift)


def drop_captions(
    prompts: Shaped[AnyArray, "b s t *d"], null: Shaped[AnyArray, "..."], rate: float, key
) -> Shaped[Array, "b s t *d"]:
    """Replaces all prompts of a film by the null prompt, with probability `rate` for each film.

    Prompts are token ids or embeddings; `null` has the shape of a prompt, or of one per film.
    """
    dropped = jax.random.bernoulli(key, rate, (prompts.shape[0], 1, 1))
    dropped = dropped.reshape(-1, *(1,) * (prompts.ndim - 1))
    return jnp.where(dropped, null.astype(prompts.dtype), prompts)


def error_by_time(error: Float[Array, "b f"], t: Float[Array, "b f"]) -> Metrics:
    """The mean error over all times and per part of 0..1000, as (sum, weight): mse_t0_250 etc."""
    edges = np.linspace(0, flow.TRAIN_TIMES, BUCKETS + 1).astype(int)
    metrics = weighted({"mse": jnp.mean(error)})
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = ((t > low) & (t <= high)).astype(jnp.float32)
        metrics[f"mse_t{low}_{high}"] = (jnp.sum(error * inside), jnp.sum(inside))
    return metrics
