"""The pass through the transformer: segments in, velocities out. Training and streaming are this one function.

A segment is a chunk of tokens with its own time and prompt. Its keys and values come from itself and from its receptive field in
a history of clean frames. The history is either the clean segments of the same pass (the packed pass of paper 3.2: N clean and
N noisy chunks in one forward) or a `KVCache` (streaming: one segment). Each segment gathers the frames of its field, rotates
them to their slots and attends densely. No mask over the packed sequence exists; the paper's four quadrants follow from the indices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.models import dit
from causalcine_jax.models.attention.backends import attention
from causalcine_jax.models.attention.growing_field import at_least
from causalcine_jax.models.attention.packed_fields import attend_fields, chosen, fits
from causalcine_jax.models.cache.history import History, take
from causalcine_jax.models.cache.kv_cache import KVCache, describe
from causalcine_jax.models.cache.quantised import restored, values_of
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.layer_scan import scan_layers
from causalcine_jax.models.receptive_field import ReceptiveField
from causalcine_jax.models.rope import rotate, rotation
from causalcine_jax.parallel.mesh import shard
from causalcine_jax.parallel.platform import platform
from causalcine_jax.parallel.sharding import all_gather_params
from causalcine_jax.parallel.ulysses import over_heads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PassOutput:
    """velocity of the noisy segments (those that were asked for); and, where asked for, keys and values of the last segment, features, fields.

    field.* have leading axes [layers, segments, batch]. With a pool in host memory, `retrieved` goes with k, v: values of the frames that memory
    brought over, the last of the field's.
    """

    velocity: Float[Array, "b f h w c"]
    k: Float[Array, "l b c p h d"] | None = None
    v: Float[Array, "l b c p h d"] | None = None
    features: tuple[Float[Array, "b s t d"], ...] = ()
    field: ReceptiveField | None = None
    retrieved: tuple[Shaped[Array, "l b m p h d"], Shaped[Array, "l b m p h d"]] | None = None


def teacher_forced(
    model: Transformer,
    clean: Float[Array, "b f h w c"] | None,
    noisy: Float[Array, "b f h w c"],
    t: Float[Array, "..."],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    *,
    memory: MemoryConfig = MemoryConfig(),
    chunk_frames: int = 3,
    t_clean: float = 0,
    first: int | Int[Array, ""] | None = None,
    history: KVCache | None = None,
    features: tuple[int, ...] = (),
    remat: int = 0,
    segments_at_once: int | None = None,
):
    """Velocity of every noisy chunk given the clean chunks before it, in one forward (paper Eq. 4 and 5).

    clean          N * chunk_frames latent frames; not read when `history` holds the clean chunks already
    noisy          all of the film's N chunks, or M of them
    first          which chunk `noisy` begins with, from 0; the last M when None
    t              noise time 0..1000: a scalar, [B] (one per film, the paper's) or [B, M] (one per noisy chunk)
    text           prompts' embeddings per shot, zero beyond each prompt's tokens; padded to text_len inside
    shot_of_chunk  [B, N]: which shot's prompt a chunk is under, for its clean and its noisy copy alike
    features       layer indices whose output tokens [B, N, C*P, D] of the noisy chunks are returned too
    remat          layers that the backward pass recomputes together, from the tokens before them, one by one; 0: it keeps all that it needs
    segments_at_once  chunks whose fields are gathered and attended to at once (None: all); with remat also in the backward pass, which then attends once more
    Returns the velocity of `noisy`, or (velocity, features) where features were asked for. Raises `UsageError` on shapes that do not fit.
    """
    batch, chunks = shot_of_chunk.shape
    given = _chunks(noisy, shot_of_chunk, chunk_frames)
    t = _time_per_chunk(t, batch, given)
    index = jnp.arange(chunks, dtype=jnp.int32)
    first = chunks - given if first is None else first
    part = lambda a: jax.lax.dynamic_slice_in_dim(a, first, given, axis=-1)
    context = dit.embed_text(model, text)
    # Nothing attends to the last clean chunk, so it is left out of the pass.
    committed = 0 if history is not None else chunks - 1
    if committed and clean.shape[:2] != (batch, chunks * chunk_frames):
        raise UsageError(
            f"clean has shape {clean.shape}, expected {chunks} chunks of {chunk_frames} frames for {batch} films"
        )
    latents, times, indices, shots = noisy, t, part(index), part(shot_of_chunk)
    if committed:
        latents = jnp.concatenate(
            [clean[:, : committed * chunk_frames].astype(noisy.dtype), noisy], axis=1
        )
        times = jnp.concatenate([jnp.full((batch, committed), t_clean, jnp.float32), t], axis=1)
        indices = jnp.concatenate([index[:committed], indices])
        shots = jnp.concatenate([shot_of_chunk[:, :committed], shots], axis=1)
    out = transformer_pass(
        model, latents, times, indices, context, shots, memory=memory, chunk_frames=chunk_frames, clean_segments=committed,
        history=history, features=features, remat=remat, segments_at_once=segments_at_once,
    )  # fmt: skip
    return (out.velocity, out.features) if features else out.velocity


def noisy_causal(
    model: Transformer,
    noisy: Float[Array, "b f h w c"],
    t: Float[Array, "..."],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    *,
    memory: MemoryConfig = MemoryConfig(),
    chunk_frames: int = 3,
    features: tuple[int, ...] = (),
    remat: int = 0,
    segments_at_once: int | None = None,
):
    """Velocity of the film's every chunk, where a chunk's history are the *noisy* chunks before it.

    One stream instead of two: nothing clean enters, so a film of pure noise tells nothing about itself. Every chunk has the bounded field
    of a noisy chunk, whatever memory.route_clean. Arguments, return value and errors otherwise as of `teacher_forced`.
    """
    batch, chunks = shot_of_chunk.shape
    if _chunks(noisy, shot_of_chunk, chunk_frames) != chunks:
        raise UsageError(
            f"noisy has {noisy.shape[1]} latent frames, expected all {chunks} chunks of the film"
        )
    out = transformer_pass(
        model, noisy, _time_per_chunk(t, batch, chunks), jnp.arange(chunks, dtype=jnp.int32), dit.embed_text(model, text), shot_of_chunk,
        memory=dataclasses.replace(memory, route_clean=True), chunk_frames=chunk_frames, clean_segments=chunks - 1,
        first_output=0, features=features, remat=remat, segments_at_once=segments_at_once,
    )  # fmt: skip
    return (out.velocity, out.features) if features else out.velocity


def _chunks(noisy, shot_of_chunk, chunk_frames: int) -> int:
    """How many chunks `noisy` holds, of a film with those shots."""
    batch, frames = noisy.shape[:2]
    if frames % chunk_frames:
        raise UsageError(f"{frames} latent frames are not whole chunks of {chunk_frames}")
    if shot_of_chunk.shape[0] != batch or shot_of_chunk.shape[1] < frames // chunk_frames:
        raise UsageError(
            f"shot_of_chunk has shape {shot_of_chunk.shape}, expected {(batch, frames // chunk_frames)}"
        )
    return frames // chunk_frames


def _time_per_chunk(t, batch: int, chunks: int) -> Float[Array, "b n"]:
    return jnp.broadcast_to(
        jnp.reshape(t, jnp.shape(t) + (1,) * (2 - jnp.ndim(t))), (batch, chunks)
    ).astype(jnp.float32)


def whole_film(
    model: Transformer,
    x: Float[Array, "b f h w c"],
    t: Float[Array, " b"],
    text: Float[Array, "b tokens text_dim"],
) -> Float[Array, "b f h w c"]:
    """Bidirectional Wan2.1: the film as one chunk with no history, under one prompt. Returns the velocity."""
    shots = jnp.zeros((x.shape[0], 1), jnp.int32)
    return teacher_forced(model, None, x, t, text[:, None], shots, chunk_frames=x.shape[1])


def transformer_pass(
    model: Transformer,
    latents: Float[Array, "b f h w c"],
    t: Float[Array, "b s"],
    chunk_index: Int[Array, " s"],
    text: TextContext,
    shot: Int[Array, "b s"],
    *,
    memory: MemoryConfig,
    chunk_frames: int,
    clean_segments: int = 0,
    first_output: int | None = None,
    history: KVCache | None = None,
    features: tuple[int, ...] = (),
    return_kv: bool = False,
    return_field: bool = False,
    replay: ReceptiveField | None = None,
    remat: int = 0,
    segments_at_once: int | None = None,
) -> PassOutput:
    """S segments of `chunk_frames` latent frames through all layers.

    The first `clean_segments` segments are the history of all others (chunks 0.. in order); with `history` given there are none.
    Segments from `first_output` on (those after the clean ones, when None) get velocities and features. `replay` forces the fields of an earlier pass (top-k is discontinuous, so equality
    of two passes is checked under the same choice). `remat` and `segments_at_once` are as in `teacher_forced`.
    """
    config = model.config
    grid = dit.token_grid(config, *latents.shape[2:4])
    tokens = grid[0] * grid[1]
    x = dit.patchify(model, latents, chunk_frames)
    e, e0 = dit.embed_time(model, t)
    own_slots = jnp.arange(chunk_frames - 1, -1, -1, dtype=jnp.int32)
    shared = (chunk_index, rotation(own_slots, grid, config.head_dim))
    if history is not None and history.near is not None and len(chunk_index) > 1:
        raise UsageError(
            "a pool in host memory is read by one chunk at a time: keep it on the device for a packed pass"
        )

    def frames_of(y):  # [b, s, (c p), ...] -> [b, (s c), p, ...]
        return y.reshape(y.shape[0], -1, tokens, *y.shape[3:])

    def layer(x, inputs):
        block, text_k, text_v, cached, forced = inputs
        block, past = all_gather_params(block), None if cached is None else history.of_layer(cached)
        modulation = block.modulation[...].astype(jnp.float32) + e0  # [b, s, 6, d]
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            modulation[:, :, None, i] for i in range(6)
        )

        q, k, v = dit.self_attention_inputs(
            block, dit.modulated_norm(x, shift_sa, scale_sa, config.eps), config
        )
        attended, field, kept = over_heads(attend)(q, k, v, past, forced, shared)
        x = x + block.self_attn.o(dit.merge_heads(attended)) * gate_sa
        x = x + dit.cross_attention(block, x, text_k, text_v, shot, config)
        x = (
            x
            + dit.feed_forward(block, dit.modulated_norm(x, shift_ff, scale_ff, config.eps))
            * gate_ff
        )
        return shard(x, "data", None, "seq"), (kept, field if return_field else None)

    def attend(q, k, v, past, forced, shared):
        index, own_rotation = shared
        if past is None:
            clean_k, clean_v = frames_of(k[:, :clean_segments]), frames_of(v[:, :clean_segments])
            past = History(
                clean_k,
                clean_v,
                describe(clean_k),
                jnp.arange(clean_segments * chunk_frames, dtype=jnp.int32),
            )
        at_once = (segments_at_once, bool(remat))
        out, field, taken = _attend(
            q,
            k,
            v,
            past,
            index,
            own_rotation,
            grid,
            memory,
            chunk_frames,
            clean_segments,
            forced,
            *at_once,
        )
        if not return_kv:
            return out, field, None
        return (
            out,
            field,
            (frames_of(k[:, -1:]), frames_of(v[:, -1:]), jax.tree.map(lambda a: a[-1], taken)),
        )

    cached = None if history is None else history.layers(readers=len(chunk_index))
    x, kept, taps = scan_layers(
        layer, x, (model.blocks, text.k, text.v, cached, replay), config.num_layers, features, remat
    )
    kv, field = kept
    first = clean_segments if first_output is None else first_output
    patches = dit.head(model, x[:, first:], e[:, first:])
    velocity = dit.unpatchify(model, frames_of(patches), grid)
    k, v, retrieved = kv if kv is not None else (None, None, None)
    return PassOutput(velocity, k, v, tuple(tap[:, first:] for tap in taps), field, retrieved)


def _attend(
    q,
    k,
    v,
    past,
    chunk_index,
    own_rotation,
    grid,
    memory,
    chunk_frames,
    clean_segments,
    forced,
    at_once,
    remat,
):
    """Self-attention of all segments over their fields; q, k, v [b, s, (c p), h, e].

    Returns ([b, s, (c p), h, e], fields [s, b, ...], what `_attend_segment` keeps [s, b, ...]).
    """
    if q.shape[1] > 1 and (memory.route_clean or clean_segments == 0) and fits(q, past, memory):
        choose = lambda q, index: chosen(q, past, index, memory, chunk_frames)
        field = jax.vmap(choose, in_axes=(1, 0))(q, chunk_index) if forced is None else forced
        return attend_fields(q, k, v, past, field, grid), field, None
    operands = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (q, k, v))

    def run(part: slice, rule: MemoryConfig, forced):
        attend_one = lambda segment, alone=False: _attend_segment(
            *segment,
            past=past,
            own_rotation=own_rotation,
            grid=grid,
            memory=rule,
            chunk_frames=chunk_frames,
            alone=alone,
        )
        segments = (*jax.tree.map(lambda a: a[part], operands), chunk_index[part], forced)
        if chunk_index[part].shape[0] == 1:  # streaming: no loop around one segment
            out = attend_one(jax.tree.map(lambda a: a[0], segments), alone=True)
            return jax.tree.map(lambda a: a[None], out)
        if not at_once or at_once >= len(chunk_index[part]):
            return jax.vmap(attend_one)(segments)
        # A loop's backward pass would keep every round's gathered fields.
        return jax.lax.map(
            jax.checkpoint(attend_one, prevent_cse=False) if remat else attend_one,
            segments,
            batch_size=at_once,
        )

    if memory.route_clean or clean_segments == 0:
        out, field, taken = run(slice(None), memory, forced)
    else:
        if forced is not None:
            raise UsageError(
                "replay needs route_clean=True in a packed pass, whose clean and noisy fields else differ in size"
            )
        clean_out, *_ = run(
            slice(clean_segments), unbounded(memory, past.time.shape[0], chunk_frames), None
        )
        noisy_out, field, taken = run(slice(clean_segments, None), memory, None)
        out = jnp.concatenate([clean_out, noisy_out])
    return jnp.moveaxis(out, 0, 1), field, taken


def unbounded(memory: MemoryConfig, pool_frames: int, chunk_frames: int) -> MemoryConfig:
    """The field of a clean chunk under route_clean=False: every earlier chunk, slots counting back without bound."""
    return dataclasses.replace(
        memory, policy="none", window_chunks=max(1, pool_frames // chunk_frames)
    )


def _attend_segment(
    q,
    k,
    v,
    chunk_index,
    forced,
    *,
    past: History,
    own_rotation,
    grid,
    memory: MemoryConfig,
    chunk_frames: int,
    alone: bool,
):
    """One segment of a batch: choose the field, gather and rotate it, attend. q, k, v [b, (c p), h, e].

    `alone` says that no other segment is batched with it. Returns what was attended, the field, and of a pool in host memory the values of k and v that
    memory retrieved [b, m, p, h, e].
    """
    batch, length, num_heads, head_dim = q.shape
    per_frame = lambda y: y.reshape(batch, chunk_frames, -1, num_heads, head_dim)
    flat = lambda y: y.reshape(batch, -1, num_heads, head_dim)
    q_rotated = flat(rotate(per_frame(q), *own_rotation))
    k_rotated = flat(rotate(per_frame(k), *own_rotation))
    if past.time.shape[0] == 0:
        return attention(q_rotated, k_rotated, v), None, None
    field = chosen(q, past, chunk_index, memory, chunk_frames) if forced is None else forced

    def attend(frames: int):
        """Over the field's first `frames` frames, of which it has no more."""
        part = field.first(frames)
        taken = take(past, part)
        k_past, v_past = (restored(frames) for frames in taken)
        k_past = rotate(k_past, *rotation(part.slot, grid, head_dim))
        tokens = length // chunk_frames
        keys = jnp.concatenate([k_rotated, flat(k_past).astype(k.dtype)], axis=1)
        values = jnp.concatenate([v, flat(v_past).astype(v.dtype)], axis=1)
        kept = (
            None
            if past.near is None
            else tuple(
                values_of(frames)[:, memory.window_chunks * chunk_frames :] for frames in taken
            )
        )
        return attention(q_rotated, keys, values, (chunk_frames + part.length) * tokens), kept

    size, grows = (
        field.frame.shape[-1],
        platform() == "cpu" and alone and past.layer is not None and past.near is None,
    )
    out, kept = at_least(field.length, size, chunk_frames, attend) if grows else attend(size)
    return out, field, kept
