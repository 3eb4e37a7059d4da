"""What a film needs of memory before anything is allocated: from configs and shapes alone, for a preset, a public family or a model on disk.

Counted exactly: parameters, the pool of history, the prompt's keys and values, the VAE's cache while decoding. Estimated: activations, as the tensors
that must exist together in one pass (`_activations`); the compiler's fusions make it less, its workspace more.

Each device's share: parameters cut by the rule of `parallel.sharding`, everything with heads cut along heads, the VAE whole on every device.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from causalcine_jax.config import DTYPES, PRESETS, MemoryConfig, TransformerConfig, VAEConfig
from causalcine_jax.convert import orbax_copy
from causalcine_jax.convert.describe import describe, from_config
from causalcine_jax.convert.find import PARTS, holds
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.metadata import read_settings
from causalcine_jax.errors import DataError, UsageError, nearest, raise_faults
from causalcine_jax.families import FAMILIES
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.film.pool import frames_within, kept_near
from causalcine_jax.models import dit
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.float8 import outside_blocks, quantize_blocks
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.sharding import AXES, state_shardings
from causalcine_jax.story import Video
from causalcine_jax.story_schema import CHUNK_FRAMES

FILM_FRAMES = 60  # of 15 s
WAN_STRIDE = 8  # pixels per latent, of a VAE that is not there to be asked
NETWORKS = {"transformer": Transformer, "vae": VAE, "text_encoder": UMT5Encoder}


@dataclass(frozen=True)
class MemoryRequest:
    """What `launch/plan.py memory` is asked for.

    model        a preset's name, a family's (families.py), or a model on disk in any format that is read
    height, width  of the film in pixels; None for the model's own
    pool_frames  latent frames of history kept; None for as many as the memory policy can use: with camr those of a 15 s film, 60
    pool_gb      their GB (10^9 bytes, all histories and devices together) instead; the plan then says how many frames those are
    devices      that share the work
    guidance     1 keeps one history, anything else two side by side; None for the model's own
    dtype        of weights, pool and activations: float32, bfloat16 or float8 (only the blocks' matrices); None for the model's own
    kv_dtype     of the pool's keys and values: the same, or int8 or fp8 with scales
    pool_on      where they lie, device or host
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


@dataclass(frozen=True)
class MemoryLine:
    """One row of the plan: bytes on all devices together, and on each; or in host memory, and of each device's part."""

    name: str
    bytes: int
    device_bytes: int
    parameters: int = 0
    estimated: bool = False
    host: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """The whole account of a `MemoryRequest`, its open choices filled in. `kv_per_frame` is K and V of one latent frame of one history."""

    request: MemoryRequest
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


@dataclass(frozen=True)
class _Model:
    """Shapes of the networks that are there, and how they are used."""

    networks: dict[str, Any]
    video: Video
    guidance: float
    memory: MemoryConfig = MemoryConfig()
    chunk_frames: int = CHUNK_FRAMES
    dtype: str = "bfloat16"


def memory_plan(request: MemoryRequest) -> MemoryPlan:
    """The plan of `request`.

    Raises:
      UsageError: a size, pool or number of devices that cannot be; the legal ones are named.
      DataError: no model there, or a damaged one.
    """
    model = _named(request.model) or _on_disk(request.model)
    if request.pool_frames is not None and request.pool_gb is not None:
        raise UsageError("pool_frames and pool_gb both say how large the pool is: give one of them")
    request = _filled(request, model)
    dtype, histories = jnp.dtype(outside_blocks(request.dtype)), 1 if request.guidance == 1 else 2
    config: TransformerConfig = model.networks["transformer"].config
    vae = model.networks.get("vae")
    stride = vae.cfg.spatial_stride if vae else WAN_STRIDE
    _, patch_height, patch_width = config.patch_size
    tokens = request.height // (stride * patch_height) * (request.width // (stride * patch_width))
    stored = {"dtype": dtype, "kv_dtype": request.kv_dtype}
    near = kept_near(request.pool_on, model.memory)
    pool_of = lambda frames, **more: jax.eval_shape(
        lambda: KVCache.empty(
            config, histories, frames, tokens, model.chunk_frames, **stored, **more
        )
    )
    if request.pool_gb is not None and tokens:
        frames = frames_within(
            request.pool_gb, pool_of(model.chunk_frames).bytes, model.memory, model.chunk_frames
        )
        request = dataclasses.replace(request, pool_frames=frames)
    _check(request, config, model, stride, tokens)

    pool = pool_of(request.pool_frames, near=near)
    text = jax.ShapeDtypeStruct((histories, 1, config.text_len, config.text_dim), dtype)
    weights = {name: _cast(shapes, dtype) for name, shapes in model.networks.items()}
    if request.dtype == "float8":
        weights["transformer"] = jax.eval_shape(quantize_blocks, weights["transformer"])
    prompt = jax.eval_shape(dit.embed_text, weights["transformer"], text)
    lines = [_network(name, shapes, request.devices) for name, shapes in weights.items()]
    lines.append(_by_heads("pool of history", pool.bytes - pool.host_bytes, request.devices))
    if near is not None:
        lines.append(
            dataclasses.replace(
                _by_heads("pool in host memory", pool.host_bytes, request.devices), host=True
            )
        )
    lines.append(_by_heads("prompt's keys and values", _bytes(prompt), request.devices))
    if vae:
        latents = jax.ShapeDtypeStruct(
            (
                1,
                model.chunk_frames,
                request.height // stride,
                request.width // stride,
                vae.cfg.z_dim,
            ),
            dtype,
        )
        cache = _bytes(jax.eval_shape(VAE.decode_first, weights["vae"], latents)[1])
        lines.append(MemoryLine("VAE cache", cache, cache))
    work = histories * _activations(config, model, tokens, dtype)
    decoding = (
        _decoding(vae.cfg, model.chunk_frames, request, dtype) if vae else 0
    )  # after a pass, not beside it
    lines.append(
        MemoryLine(
            "activations",
            max(work, decoding),
            max(-(-work // request.devices), decoding),
            estimated=True,
        )
    )
    kv_per_frame = (_bytes(pool.k) + _bytes(pool.v)) // (histories * request.pool_frames)
    return MemoryPlan(request, tokens, histories, kv_per_frame, tuple(lines))


def _named(name: str) -> _Model | None:
    if name not in PRESETS and name not in FAMILIES:
        return None
    known = FAMILIES.get(name)
    preset = known.preset if known else PRESETS[name]
    configs = {
        "transformer": preset.transformer,
        "vae": preset.vae,
        "text_encoder": preset.text_encoder,
    }
    networks = {part: _shapes(part, config) for part, config in configs.items()}
    if known:
        return _Model(
            networks, known.video, known.sampler.guidance, known.memory, known.chunk_frames
        )
    return _Model(networks, Video(16, preset.width, preset.height), preset.guidance)


def _on_disk(name: str) -> _Model:
    path = Path(name)
    if not path.exists():
        raise UsageError(
            f"{name!r} is no preset, no family, and no file or folder: {nearest(name, [*PRESETS, *FAMILIES])}"
        )
    networks = {}
    for part in PARTS:
        copy = orbax_copy.find(path, part)
        if copy is not None:
            _, networks[part] = from_config(
                part, read_settings(copy / "config.json"), str(copy / "config.json")
            )
        elif holds(path, part):
            with open_part(path, part) as tensors:
                networks[part] = describe(part, tensors).shapes
    if "transformer" not in networks:
        raise DataError(f"{path} has no transformer: a plan needs at least that")
    said, wan = model_defaults(path), FAMILIES["wan2.1-t2v-14b"]
    sampler = said.get("sampler", wan.sampler)
    choices = {name: said[name] for name in ("memory", "chunk_frames") if name in said}
    choices["dtype"] = said.get("dtype", DTYPES[0])
    return _Model(networks, said.get("video", wan.video), sampler.guidance, **choices)


def _shapes(part: str, config):
    return jax.eval_shape(lambda: NETWORKS[part](config, key=jax.random.key(0)))


def _filled(request: MemoryRequest, model: _Model) -> MemoryRequest:
    # Without camr nothing beyond the window and the sink is ever seen again.
    pool = (
        FILM_FRAMES if model.memory.reaches_all else model.memory.smallest_pool(model.chunk_frames)
    )
    return dataclasses.replace(
        request,
        height=model.video.height if request.height is None else request.height,
        width=model.video.width if request.width is None else request.width,
        pool_frames=pool if request.pool_frames is None else request.pool_frames,
        guidance=model.guidance if request.guidance is None else request.guidance,
        dtype=request.dtype or model.dtype,
    )


def _check(
    request: MemoryRequest, config: TransformerConfig, model: _Model, stride: int, tokens: int
) -> None:
    faults = []
    for name, size, patch in (
        ("height", request.height, config.patch_size[1]),
        ("width", request.width, config.patch_size[2]),
    ):
        step = stride * patch
        if size % step or size <= 0:
            near = [n for n in (size // step * step, (size // step + 1) * step) if n > 0]
            faults.append(
                f"{name} must be a multiple of {step} pixels, not {size}; the nearest: {' and '.join(map(str, near))}"
            )
    smallest = model.memory.smallest_pool(model.chunk_frames)
    if request.pool_frames % model.chunk_frames or request.pool_frames < smallest:
        faults.append(
            f"a pool must have a multiple of {model.chunk_frames} frames, at least {smallest}, not {request.pool_frames}"
        )
    own = model.chunk_frames * tokens
    legal = [
        n for n in range(1, config.num_heads + 1) if config.num_heads % n == 0 and own % n == 0
    ]
    if request.devices not in legal and not faults:
        faults.append(
            f"{request.devices} devices cannot share {config.num_heads} heads and a chunk's {own} tokens evenly, "
            f"but {', '.join(map(str, legal))} can"
        )
    raise_faults("plan", faults)


def _cast(shapes, dtype):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


def _bytes(shapes) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _network(name: str, shapes, devices: int) -> MemoryLine:
    leaves = jax.tree.leaves(shapes)
    share = _bytes(shapes)
    if name != "vae":
        shardings = jax.tree.leaves(state_shardings(AbstractMesh((devices, 1), AXES), shapes))
        share = sum(
            int(np.prod(cut.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for leaf, cut in zip(leaves, shardings, strict=True)
        )
    return MemoryLine(
        name.replace("_", " "), _bytes(shapes), share, parameters=sum(leaf.size for leaf in leaves)
    )


def _by_heads(name: str, size: int, devices: int) -> MemoryLine:
    return MemoryLine(name, size, -(-size // devices))


def _activations(config: TransformerConfig, model: _Model, tokens: int, dtype) -> int:
    """Bytes of the tensors that one pass of one history must hold together.

    The residual stream before and after a layer, in float32; the wider of attention (the field's keys, gathered and again rotated, and values; the
    chunk's q, k, v and output) and feed-forward (its hidden layer and input); and the new keys and values of all layers, which a commit returns.
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


def _decoding(vae: VAEConfig, chunk_frames: int, request: MemoryRequest, dtype) -> int:
    """Bytes of the decoder's widest moment, the last upsampling of a chunk: enlarged to full size, before and after its convolution."""
    pixels = chunk_frames * vae.temporal_stride * request.height * request.width
    wide = vae.dim * vae.dim_mult[1]
    return pixels * (wide + wide // 2) * jnp.dtype(dtype).itemsize
