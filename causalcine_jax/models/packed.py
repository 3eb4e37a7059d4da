"""The pass through the transformer: segments in, velocities out, for training and for streaming.

A segment is a chunk of tokens with its own time and prompt. It attends to itself and to its
receptive field in a history of clean frames. The history is either of two:

* the clean segments of the same pass: the packed pass of paper 3.2, N clean and N noisy chunks;
* a `KVCache`: streaming, one segment.

There is no mask over the packed sequence: the paper's four quadrants follow from the indices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from causalcine_jax.config import PassConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.models import dit
from causalcine_jax.models.attention.segments import SharedInputs, attend_segments
from causalcine_jax.models.cache.history import History
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.layer_scan import scan_layers
from causalcine_jax.models.receptive_field import ReceptiveField, describe
from causalcine_jax.models.rope import rotation
from causalcine_jax.parallel.mesh import shard
from causalcine_jax.parallel.sharding import all_gather_params
from causalcine_jax.parallel.ulysses import over_heads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments:
    """The S chunks of one pass, of B films.

    latents      S * C latent frames
    t            noise time 0..1000 of each segment
    chunk_index  each segment's chunk in the film, from 0
    shot         index of each segment's prompt in the text
    clean        the first `clean` segments are chunks 0, 1, 2, ... in order, and the history of all
    output_from  first segment with velocity and features; None: the first noisy one
    field        the receptive fields to use; None: every layer chooses. Rounding can change top-k,
                 so two passes are compared under the same fields
    """

    latents: Float[Array, "b f h w c"]
    t: Float[Array, "b s"]
    chunk_index: Int[Array, " s"]
    shot: Int[Array, "b s"]
    clean: int = dataclasses.field(default=0, metadata={"static": True})
    output_from: int | None = dataclasses.field(default=None, metadata={"static": True})
    field: ReceptiveField | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PassOutput:
    """Velocity of the noisy segments; on request also the last segment's k and v, features, fields.

    field.* have leading axes [layers, segments, batch]. With route_clean=False they are those of
    the noisy segments alone. With a pool in host memory, `retrieved` comes with k and v. It holds
    the values of the frames that memory retrieved, the field's last.
    """

    velocity: Float[Array, "b f h w c"]
    k: Float[Array, "l b chunk p n e"] | None = None
    v: Float[Array, "l b chunk p n e"] | None = None
    features: tuple[Float[Array, "b s t d"], ...] = ()
    field: ReceptiveField | None = None
    retrieved: tuple[Shaped[Array, "l b m p n e"], Shaped[Array, "l b m p n e"]] | None = None


def teacher_forced(
    model: Transformer,
    clean: Float[Array, "b f h w c"],
    noisy: Float[Array, "b m h w c"],
    t: float | Float[Array, "..."],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    config: PassConfig = PassConfig(),
    *,
    first: int | Int[Array, ""] | None = None,
):
    """Velocity of noisy chunks given the clean chunks before each, in one forward (paper Eq. 4, 5).

    Args:
      clean: the film's N * C clean latent frames.
      noisy: all of the film's N chunks, or M of them, as latent frames. M may also be a multiple of
        N: several draws of the whole film, one after another, which share the clean chunks.
      t: noise time 0..1000: a scalar, [B] (per film, as in the paper) or [B, M] (per noisy chunk).
      text: the prompts' embeddings per shot, zero beyond each prompt's tokens. It is padded to
        text_len here.
      shot_of_chunk: each chunk's shot, whose prompt its clean and noisy copies get.
      first: index of the first chunk in `noisy`, from 0; None: `noisy` is the film's last M.

    Returns:
      The velocity of `noisy`. With config.features: (velocity, features [B, M, C*P, D] per layer).

    Raises:
      UsageError: the shapes are inconsistent.
    """
    (batch, chunks), length = shot_of_chunk.shape, config.chunk_frames
    last = _noisy_segments(noisy, t, shot_of_chunk, first, length)
    if chunks > 1 and clean.shape[:2] != (batch, chunks * length):
        raise UsageError(
            f"clean has shape {clean.shape}, expected {chunks} chunks of {length} frames "
            f"for {batch} films"
        )
    # Nothing attends to the last clean chunk, so it is left out of the pass.
    before = chunks - 1
    segments = Segments(
        jnp.concatenate([clean[:, : before * length].astype(noisy.dtype), noisy], axis=1),
        jnp.concatenate([jnp.zeros((batch, before), jnp.float32), last.t], axis=1),
        jnp.concatenate([jnp.arange(before, dtype=jnp.int32), last.chunk_index]),
        jnp.concatenate([shot_of_chunk[:, :before], last.shot], axis=1),
        clean=before,
    )
    return _velocity(model, segments, text, config)


def pool_forced(
    model: Transformer,
    pool: KVCache,
    noisy: Float[Array, "b m h w c"],
    t: float | Float[Array, "..."],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    config: PassConfig = PassConfig(),
    *,
    first: int | Int[Array, ""] | None = None,
):
    """`teacher_forced` where a pool already holds the film's clean chunks."""
    segments = _noisy_segments(noisy, t, shot_of_chunk, first, config.chunk_frames)
    return _velocity(model, segments, text, config, pool)


def _noisy_segments(noisy, t, shot_of_chunk, first, chunk_frames: int) -> Segments:
    """The chunks of `noisy`, from index `first` on. None: the last ones, or several whole films."""
    batch, frames = noisy.shape[:2]
    if frames % chunk_frames:
        raise UsageError(f"{frames} latent frames are not whole chunks of {chunk_frames}")
    count, chunks = frames // chunk_frames, shot_of_chunk.shape[1]
    draws = count // chunks if first is None and count and not count % chunks else 1
    if shot_of_chunk.shape[0] != batch or draws * chunks < count:
        raise UsageError(
            f"shot_of_chunk has shape {shot_of_chunk.shape}, expected {batch} films of at least "
            f"{count} chunks"
        )
    first = draws * chunks - count if first is None else first
    part = lambda a: jax.lax.dynamic_slice_in_dim(jnp.tile(a, draws), first, count, axis=-1)
    t = jnp.asarray(t, jnp.float32)
    t = jnp.broadcast_to(t.reshape(t.shape + (1,) * (2 - t.ndim)), (batch, count))
    return Segments(noisy, t, part(jnp.arange(chunks, dtype=jnp.int32)), part(shot_of_chunk))


def _velocity(model, segments: Segments, text, config: PassConfig, pool: KVCache | None = None):
    out = transformer_pass(model, segments, dit.text_keys_values(model, text), config, history=pool)
    return (out.velocity, out.features) if config.features else out.velocity


def noisy_causal(
    model: Transformer,
    noisy: Float[Array, "b f h w c"],
    t: float | Float[Array, "..."],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    config: PassConfig = PassConfig(),
):
    """Velocity of all of the film's chunks, where the history is the *noisy* chunks before each.

    The pass has one stream instead of two. No clean chunk enters, so a film of pure noise reveals
    nothing about itself. Every chunk has the bounded field of a noisy chunk, for any
    memory.route_clean. Arguments, return value and errors are otherwise those of `teacher_forced`.
    """
    chunks = shot_of_chunk.shape[1]
    segments = _noisy_segments(noisy, t, shot_of_chunk, None, config.chunk_frames)
    if len(segments.chunk_index) != chunks:
        raise UsageError(
            f"noisy has {noisy.shape[1]} latent frames, expected all {chunks} chunks of the film"
        )
    segments = dataclasses.replace(segments, clean=chunks - 1, output_from=0)
    bounded = dataclasses.replace(config.memory, route_clean=True)
    return _velocity(model, segments, text, dataclasses.replace(config, memory=bounded))


def whole_film(
    model: Transformer,
    x: Float[Array, "b f h w c"],
    t: Float[Array, "..."],
    text: Float[Array, "b tokens text_dim"] | TextContext,
) -> Float[Array, "b f h w c"]:
    """Velocity by bidirectional Wan2.1: the film as one chunk without history, under one prompt.

    Args:
      t: noise time 0..1000 of each film, or of all.
      text: one prompt per film: text encoder output, or keys and values (`dit.text_keys_values`).
    """
    batch, frames = x.shape[:2]
    if not isinstance(text, TextContext):
        text = dit.text_keys_values(model, text[:, None])
    shot = jnp.zeros((batch, 1), jnp.int32)
    times = jnp.broadcast_to(jnp.reshape(jnp.asarray(t, jnp.float32), (-1, 1)), (batch, 1))
    segments = Segments(x, times, jnp.zeros(1, jnp.int32), shot)
    return transformer_pass(model, segments, text, PassConfig(chunk_frames=frames)).velocity


def transformer_pass(
    model: Transformer,
    segments: Segments,
    text: TextContext,
    config: PassConfig,
    *,
    history: KVCache | None = None,
    keep_kv: bool = False,
    keep_field: bool = False,
) -> PassOutput:
    """Runs all segments through all layers.

    Args:
      history: a pool of clean chunks, used instead of clean segments.
      keep_kv: also returns the last segment's keys and values.
      keep_field: also returns the fields.

    Raises:
      UsageError: several segments would read a pool in host memory.
    """
    sizes, chunk_frames = model.config, config.chunk_frames
    grid = dit.token_grid(sizes, *segments.latents.shape[2:4])
    tokens = grid[0] * grid[1]
    patches = dit.patchify(sizes, segments.latents, chunk_frames)
    x = dit.embed_patches(model, patches)
    e, e0 = dit.embed_time(model, segments.t)
    own_positions = jnp.arange(chunk_frames - 1, -1, -1, dtype=jnp.int32)
    own_rotation = rotation(own_positions, grid, sizes.head_dim)
    shared = SharedInputs(segments.chunk_index, own_rotation, grid, segments.clean, config)
    by_prompt = POLICIES[config.memory.policy].by_prompt
    readers = len(segments.chunk_index)
    if history is not None and history.copies is not None and readers > 1:
        raise UsageError(
            "a pool in host memory is read by one chunk at a time: "
            "keep it on the device for a packed pass"
        )

    def frames_of(y):  # [b, s, (c p), ...] -> [b, (s c), p, ...]
        return y.reshape(y.shape[0], -1, tokens, *y.shape[3:])

    def layer(x, inputs):
        block, text_k, text_v, cached, preset = inputs
        block = all_gather_params(block)
        past = None if history is None else history.of_layer(cached)
        modulation = block.modulation[...].astype(jnp.float32) + e0  # [b, s, 6, d]
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            modulation[:, :, None, i] for i in range(6)
        )

        normed = dit.modulated_norm(x, shift_sa, scale_sa, sizes.eps)
        q, k, v = dit.self_attention_inputs(block, normed, sizes)
        prompt_key = _mean_keys(text_k, segments.shot) if by_prompt else None
        attended, field, kept = over_heads(attend)(q, k, v, past, preset, shared, prompt_key)
        x = x + block.self_attn.o(dit.merge_heads(attended)) * gate_sa
        x = x + dit.cross_attention(block, x, text_k, text_v, segments.shot, sizes)
        normed = dit.modulated_norm(x, shift_ff, scale_ff, sizes.eps)
        x = x + dit.feed_forward(block, normed) * gate_ff
        return shard(x, "data", None, "seq"), (kept, field if keep_field else None)

    def attend(q, k, v, past, preset, shared, prompt_key):
        if past is None:
            clean = slice(shared.clean)
            clean_k, clean_v = frames_of(k[:, clean]), frames_of(v[:, clean])
            frame = jnp.arange(shared.clean * chunk_frames, dtype=jnp.int32)
            parts = shared.config.memory.parts(clean_k.shape[2])
            past = History(clean_k, clean_v, describe(clean_k, parts), frame)
        out, field, taken = attend_segments(q, k, v, past, preset, shared, prompt_key)
        if not keep_kv:
            return out, field, None
        last = (frames_of(k[:, -1:]), frames_of(v[:, -1:]), jax.tree.map(lambda a: a[-1], taken))
        return out, field, last

    cached = None if history is None else history.layers(readers=readers)
    inputs = (model.blocks, text.k, text.v, cached, segments.field)
    x, (kv, field), taps = scan_layers(
        layer, x, inputs, sizes.num_layers, config.features, config.remat
    )
    first = segments.clean if segments.output_from is None else segments.output_from
    out = frames_of(dit.head(model, x[:, first:], e[:, first:], patches[:, first:]))
    noisy = segments.latents[:, first * chunk_frames :]
    velocity = dit.velocity(model, out, noisy, segments.t[:, first:])
    k, v, retrieved = kv if kv is not None else (None, None, None)
    return PassOutput(velocity, k, v, tuple(tap[:, first:] for tap in taps), field, retrieved)


def _mean_keys(
    text_k: Float[Array, "b shots t h d"], shot: Int[Array, "b s"]
) -> Float[Array, "b s h d"]:
    """The mean key of each segment's prompt in one layer, without gradient."""
    means = jnp.mean(jax.lax.stop_gradient(text_k).astype(jnp.float32), axis=2)
    return jnp.take_along_axis(means, shot[:, :, None, None], axis=1)
