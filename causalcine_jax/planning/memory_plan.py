"""The memory that a film needs, from configs and shapes alone: nothing is allocated.

Exact: parameters, the history cache, the prompt's keys and values, the VAE's cache while decoding.
Estimated: activations, as the tensors that must coexist in one pass (`_activations`). The
compiler's fusions need less than this, its workspace more.

Per device: the transformer as `rollout_weights` says, other parameters sharded as
`parallel.sharding` does, the pool over heads, the VAE's cache over a side of its frames. Decoding
is counted whole, though its layers shard frames, so that line is an upper bound.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from causalcine_jax.config import ROLLOUT_WEIGHTS, PoolConfig
from causalcine_jax.errors import raise_faults
from causalcine_jax.film.pool import copies_of, frames_within
from causalcine_jax.models import dit
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.float8 import outside_blocks, quantize_blocks
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.parallel.mesh import divisors, frames_axis
from causalcine_jax.parallel.sharding import AXES, state_shardings
from causalcine_jax.planning.memory_model import PlannedModel, planned_model
from causalcine_jax.story_schema import size_faults
from causalcine_jax.utils.arrays import tree_bytes

FILM_FRAMES = 60  # of 15 s
WAN_STRIDE = 8  # pixels per latent, for a model without VAE


@dataclass(frozen=True)
class MemoryRequest:
    """The arguments of `causalcine plan memory`.

    model          a preset, a family (families.py), or a model on disk in any supported format
    height, width  of the film in pixels; None for the model's own
    pool_frames    latent frames in the history cache; None for as many as the memory policy can
                   use: with camr those of a 15 s film, 60
    pool_gb        the cache's GB (10^9 bytes, all histories and devices) instead; the plan then
                   states how many frames those are
    devices        that share the work
    guidance       1 keeps one history, anything else two; None for the model's own
    dtype          of weights, cache and activations: float32, bfloat16, or float8 (only the
                   blocks' matrices); None for the model's own
    kv_dtype       of the cache's keys and values: the same, or int8 or fp8 with scales
    pool_on        where the cache lies: device or host
    rollout_weights  gathered: every device holds the whole transformer; sharded: a part
    """

    model: str
    height: int | None = None
    width: int | None = None
    pool_frames: int | None = None
    devices: int = 1
    guidance: float | None = None
    dtype: str | None = None
    pool_gb: float | None = None
    kv_dtype: str = "same"
    pool_on: str = "device"
    rollout_weights: str = ROLLOUT_WEIGHTS[0]


@dataclass(frozen=True)
class FilledRequest(MemoryRequest):
    """A `MemoryRequest` in which the model's own values replace None."""

    height: int = 0
    width: int = 0
    pool_frames: int = 0
    guidance: float = 1.0
    dtype: str = "float32"


@dataclass(frozen=True)
class MemoryLine:
    """One row of the plan: bytes on all devices, and on each.

    With `host`, bytes in host memory, and each device's part of them.
    """

    name: str
    bytes: int
    device_bytes: int
    parameters: int = 0
    estimated: bool = False
    host: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """The memory for a request.

    `kv_per_frame` is the bytes of K and V of one latent frame of one history.
    """

    request: FilledRequest
    tokens_per_frame: int
    histories: int
    kv_per_frame: int
    lines: tuple[MemoryLine, ...]

    def total(
        self, *, device: bool = False, without: tuple[str, ...] = (), host: bool = False
    ) -> int:
        lines = (line for line in self.lines if line.host == host and line.name not in without)
        return sum(line.device_bytes if device else line.bytes for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **dataclasses.asdict(self),
            "total_bytes": self.total(),
            "total_device_bytes": self.total(device=True),
            "total_host_bytes": self.total(host=True),
            "total_device_bytes_prompts_precomputed": self.total(
                device=True, without=("text encoder",)
            ),
        }


def memory_plan(asked: MemoryRequest) -> MemoryPlan:
    """The plan of a request.

    Raises:
      UsageError: an impossible size, cache or number of devices; the message names legal ones.
      DataError: the model on disk is missing or damaged.
    """
    model = planned_model(asked.model)
    copies = copies_of(
        PoolConfig(asked.pool_frames, asked.pool_gb, asked.kv_dtype, asked.pool_on), model.memory
    )
    request = _filled(asked, model)
    dtype, histories = jnp.dtype(outside_blocks(request.dtype)), 1 if request.guidance == 1 else 2
    config: TransformerConfig = model.networks["transformer"].config
    vae = model.networks.get("vae")
    stride = vae.cfg.spatial_stride if vae else WAN_STRIDE
    _, patch_height, patch_width = config.patch_size
    tokens = request.height // (stride * patch_height) * (request.width // (stride * patch_width))
    pool_of = lambda frames, copies=None: jax.eval_shape(
        lambda: KVCache.empty(
            config, histories, frames, tokens, model.chunk_frames, dtype, request.kv_dtype, copies
        ).described_by(model.memory.parts(tokens))
    )
    if request.pool_gb is not None and tokens:
        frames = frames_within(
            request.pool_gb, pool_of(model.chunk_frames).bytes, model.memory, model.chunk_frames
        )
        request = dataclasses.replace(request, pool_frames=frames)
    _check(request, config, model, stride, tokens)

    pool = pool_of(request.pool_frames, copies)
    text = jax.ShapeDtypeStruct((histories, 1, config.text_len, config.text_dim), dtype)
    weights = {name: _cast(name, shapes, dtype) for name, shapes in model.networks.items()}
    if request.dtype == "float8":
        weights["transformer"] = jax.eval_shape(quantize_blocks, weights["transformer"])
    prompt = jax.eval_shape(dit.text_keys_values, weights["transformer"], text)
    lines = [_network(name, shapes, request) for name, shapes in weights.items()]
    lines.append(_by_heads("pool of history", pool.bytes - pool.host_bytes, request.devices))
    if copies is not None:
        of_host = _by_heads("pool in host memory", pool.host_bytes, request.devices)
        lines.append(dataclasses.replace(of_host, host=True))
    lines.append(_by_heads("prompt's keys and values", tree_bytes(prompt), request.devices))
    if vae:
        size = request.height // stride, request.width // stride
        latents = jax.ShapeDtypeStruct((1, model.chunk_frames, *size, vae.cfg.z_dim), dtype)
        cache = tree_bytes(jax.eval_shape(VAE.decode_first, weights["vae"], latents)[1])
        with jax.sharding.use_abstract_mesh(AbstractMesh((1, request.devices), AXES)):
            parts = 1 if frames_axis(*size) is None else request.devices
        lines.append(MemoryLine("VAE cache", cache, cache // parts))
    work = histories * _activations(config, model, tokens, dtype)
    # Decoding follows a pass, so the larger of the two counts.
    decoding = _decoding(vae.cfg, model.chunk_frames, request, dtype) if vae else 0
    lines.append(
        MemoryLine(
            "activations",
            max(work, decoding),
            max(-(-work // request.devices), decoding),
            estimated=True,
        )
    )
    kv_per_frame = (tree_bytes(pool.k) + tree_bytes(pool.v)) // (histories * request.pool_frames)
    return MemoryPlan(request, tokens, histories, kv_per_frame, tuple(lines))


def _filled(asked: MemoryRequest, model: PlannedModel) -> FilledRequest:
    # Unless memory reaches all frames, those before the window are not read again, except the sink.
    pool = (
        FILM_FRAMES if model.memory.reaches_all else model.memory.smallest_pool(model.chunk_frames)
    )
    own = {
        "height": model.video.height,
        "width": model.video.width,
        "pool_frames": pool,
        "guidance": model.guidance,
        "dtype": model.dtype,
    }
    given = {name: value for name, value in vars(asked).items() if value is not None}
    return FilledRequest(**{**own, **given})


def _check(
    request: FilledRequest, config: TransformerConfig, model: PlannedModel, stride: int, tokens: int
) -> None:
    _, rows, columns = config.patch_size
    faults = size_faults(request.height, request.width, (stride * rows, stride * columns))
    smallest = model.memory.smallest_pool(model.chunk_frames)
    if request.pool_frames % model.chunk_frames or request.pool_frames < smallest:
        faults.append(
            f"a pool must have a multiple of {model.chunk_frames} frames, at least {smallest}, "
            f"not {request.pool_frames}"
        )
    own = model.chunk_frames * tokens
    legal = [n for n in divisors(config.num_heads) if own % n == 0]
    if request.devices not in legal and not faults:
        faults.append(
            f"{request.devices} devices cannot share {config.num_heads} heads and a chunk's {own} "
            f"tokens evenly, but {', '.join(map(str, legal))} can"
        )
    raise_faults("plan", faults)


def _cast(name: str, shapes, dtype):
    if name == "transformer":
        return jax.eval_shape(lambda net: cast_weights(net, dtype), shapes)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


def _network(name: str, shapes, request: FilledRequest) -> MemoryLine:
    leaves, share = jax.tree.leaves(shapes), tree_bytes(shapes)
    if name != "transformer" or request.rollout_weights == "sharded":
        mesh = AbstractMesh((request.devices, 1), AXES)
        shardings = jax.tree.leaves(state_shardings(mesh, shapes))
        share = sum(
            int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for leaf, sharding in zip(leaves, shardings, strict=True)
        )
    return MemoryLine(
        name.replace("_", " "),
        tree_bytes(shapes),
        share,
        parameters=sum(leaf.size for leaf in leaves),
    )


def _by_heads(name: str, size: int, devices: int) -> MemoryLine:
    return MemoryLine(name, size, -(-size // devices))


def _activations(config: TransformerConfig, model: PlannedModel, tokens: int, dtype) -> int:
    """Bytes of the tensors that one pass of one history must hold at once.

    These are the sum of three:
      the residual stream before and after a layer, in float32;
      the larger of attention and feed-forward. Attention holds the field's keys, gathered and again
      rotated, its values, and the chunk's q, k, v and output. Feed-forward holds its hidden layer
      and its input;
      the new keys and values of all layers, which a commit returns.
    """
    size, own = jnp.dtype(dtype).itemsize, model.chunk_frames * tokens
    field = (
        own
        + (model.memory.window_chunks * model.chunk_frames + model.memory.retrieved_frames) * tokens
    )
    attention = (3 * field + 4 * own) * config.dim * size
    feed_forward = own * (config.ffn_dim + config.dim) * size
    return (
        2 * own * config.dim * 4
        + max(attention, feed_forward)
        + 2 * config.num_layers * own * config.dim * size
    )


def _decoding(vae: VAEConfig, chunk_frames: int, request: FilledRequest, dtype) -> int:
    """Bytes of the decoder's peak: a chunk's last upsampling, before and after its convolution."""
    height, width = request.height // vae.patch_size, request.width // vae.patch_size
    pixels = chunk_frames * vae.temporal_stride * height * width
    wide = vae.dim * vae.dim_mult[min(1, len(vae.dim_mult) - 1)]
    return pixels * (wide + wide // 2) * jnp.dtype(dtype).itemsize
