"""A rollout's moves as shapes: denoise a chunk, commit it, decode it.

The transformer, sampler and memory are a training config's. Every group of `seq` devices makes one
film (two histories with guidance), its cache sharded by heads. Prompts are already embedded. The
text encoder stays on the device all the same, but for data.embeddings (`film --embeddings`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from causalcine_jax.config import PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film import rollout
from causalcine_jax.film.pool import check_pool, copies_of
from causalcine_jax.models.cache.kv_cache import DEVICE, HOST, KVCache, axes_of
from causalcine_jax.models.dit import Transformer, token_grid
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.mesh import axes_of_frames, fitting, frames_axis
from causalcine_jax.parallel.sharding import place_rollout_weights, state_shardings
from causalcine_jax.planning.planned_step import (
    FilmBatch,
    PlannedStep,
    device_size_of,
    placed,
    shapes,
)
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.utils.arrays import tree_bytes

DTYPE = jnp.bfloat16


def rollout_steps(
    config: TrainConfig, films: FilmBatch, mesh: Mesh | AbstractMesh, planned: PoolConfig
) -> list[PlannedStep]:
    """denoise, commit and decode of one chunk, with weights placed by config.rollout_weights.

    Raises:
      UsageError: the mesh does not divide the heads.
    """
    sizes, sampler = config.transformer, sampler_of(config)
    if sizes.num_heads % (seq := mesh.shape["seq"]):
        raise UsageError(
            f"seq={seq} does not divide the {sizes.num_heads} heads that a pool is sharded by"
        )
    frames = films.frames if planned.frames is None else planned.frames
    check_pool(frames, None, config.memory, config.chunk_frames)
    histories = mesh.shape["data"] * sampler.histories
    height, width = (side // config.vae.spatial_stride for side in (films.height, films.width))
    rows, columns = token_grid(sizes, height, width)
    replicated = lambda tree: jax.tree.map(lambda a: _at(a, mesh), tree)
    by_films = lambda shape, dtype=jnp.float32: _at(
        jax.ShapeDtypeStruct(shape, dtype), mesh, "data"
    )

    model = jax.eval_shape(lambda net: cast_weights(net, DTYPE), shapes(Transformer, sizes))
    if config.rollout_weights == "gathered":
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            model = replicated(
                jax.eval_shape(partial(place_rollout_weights, weights="gathered"), model)
            )
    else:
        model = placed(model, state_shardings(mesh, model))
    copies = copies_of(planned, config.memory)
    stored = (config.chunk_frames, DTYPE, planned.kv_dtype, copies)
    pool = jax.eval_shape(
        lambda: KVCache.empty(sizes, histories, frames, rows * columns, *stored).described_by(
            config.memory.parts(rows * columns)
        )
    )
    pool = jax.tree.map(
        lambda a, kind: _at(a, mesh, *axes_of(a), kind=kind), pool, pool.memory_kinds()
    )
    on_device, on_host = (
        [array for array in jax.tree.leaves(pool) if (array.sharding.memory_kind == HOST) == host]
        for host in (False, True)
    )
    text = jax.eval_shape(
        rollout.embed_prompt,
        model,
        jax.ShapeDtypeStruct((histories, sizes.text_len, sizes.text_dim), DTYPE),
    )
    # Sharded by tokens, as `text_keys_values` leaves them: every pass gathers a layer's part.
    by_tokens = lambda a: fitting(mesh, a.shape, None, "data", None, "seq")
    text = jax.tree.map(lambda a: _at(a, mesh, *by_tokens(a)), text)
    chunk = (config.chunk_frames, height, width, sizes.in_dim)
    noise, x0 = by_films((mesh.shape["data"], *chunk)), by_films((histories, *chunk))
    index, key = replicated(
        (jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(lambda: jax.random.key(0)))
    )

    cast = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, DTYPE)
    vae = jax.tree.map(cast, shapes(VAE, config.vae))
    latents = jax.ShapeDtypeStruct((mesh.shape["data"], *chunk), DTYPE)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        axes = axes_of_frames(frames_axis(height, width))
    # Of the last decode, which left it sharded as its layers shard frames.
    cache = jax.tree.map(
        lambda a: _at(a, mesh, *axes), jax.eval_shape(VAE.decode_first, vae, latents)[1]
    )
    vae, latents = placed(vae, state_shardings(mesh, vae)), _at(latents, mesh, "data")
    encoder = jax.tree.map(cast, shapes(UMT5Encoder, config.text_encoder))
    encoder = placed(encoder, state_shardings(mesh, encoder))

    parts = {"parameters": model, "pool": on_device, "prompts' keys and values": text}
    decoding = {"VAE": vae, "VAE cache": cache}
    idle = {} if config.data.embeddings else {"text encoder": encoder}
    # Networks and caches that are not arguments of a move still occupy the device.
    how, host = {"memory": config.memory}, {"pool": on_host} if on_host else {}
    # A pass copies from the host those frames of a layer's field that are not on the device. These
    # are at most the frames that memory retrieves, for each history.
    copies = max(1, config.memory.retrieved_frames * histories // mesh.shape["data"])
    return [
        _step(
            "denoise",
            partial(rollout.denoise.trace, sampler=sampler, **how),
            (model, pool, noise, text, index, key),
            parts,
            decoding | idle,
            host,
            copies,
        ),
        _step(
            "commit",
            partial(rollout.commit.trace, **how),
            (model, pool, x0, text, index),
            parts,
            decoding | idle,
            host,
            copies,
        ),
        _step(
            "decode",
            VAE.decode_next.trace,
            (vae, cache, latents),
            decoding,
            parts | idle,
            host,
            copies,
        ),
    ]


def sampler_of(config: TrainConfig) -> SamplerConfig:
    """The student's sampler in a stage that makes a student, else that of config.sample."""
    if config.facts.student:
        return config.self_forcing.sampler
    return SamplerConfig("unipc", config.sample.steps, config.time.shift, config.sample.guidance)


def _step(
    name: str, trace, arguments: tuple, given: dict, beside: dict, host: dict, copies: int
) -> PlannedStep:
    held = sum(share for _, share in _sized(beside).values())
    return PlannedStep(
        name,
        trace,
        arguments,
        _sized(given) | _sized(beside),
        beside=held,
        host=_sized(host),
        unknown_trips=copies,
    )


def _sized(parts: dict) -> dict[str, tuple[int, int]]:
    return {name: (tree_bytes(part), device_size_of(part)) for name, part in parts.items()}


def _at(leaf, mesh: Mesh | AbstractMesh, *axes, kind: str = DEVICE) -> jax.ShapeDtypeStruct:
    # Devices that are not present do not report their memories, and a memory kind on a GPU's
    # concrete mesh is ignored. So host memory is requested on the abstract mesh.
    place = (
        NamedSharding(mesh, PartitionSpec(*axes))
        if kind == DEVICE
        else NamedSharding(mesh.abstract_mesh, PartitionSpec(*axes), memory_kind=kind)
    )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
