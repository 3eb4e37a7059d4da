"""Encodes films into a latent store: paint, encode, tokenise, write.

    film -> per-frame inputs on the host (scene parameters)
         -> pixels and VAE latents in one jit, a few frames at a time
         -> float16 latents, token ids and prompts, one shard at a time, into the store

The VAE is causal, so encoding a film in pieces gives the same latents as encoding it at once.
Pieces that fit the cache are several times faster on a CPU.
While the device encodes a batch, the host prepares the next one.
"""

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.convert import load_vae
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.models.text.tokenizer import FILE_NAME, Tokenizer
from causalcine_jax.models.vae.video import to_model_range
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld import WorldConfig, render, sample_story, scene_parameters

FRAMES_PER_STEP = 8  # video frames encoded together; a multiple of the VAE's temporal stride


@dataclass(frozen=True)
class UnencodedFilm:
    """One film before encoding.

    frames         a tree of arrays with leading axis T; `FilmSource.pixels` makes video from it
    prompts        one per shot
    shot_of_chunk  int32 [N]
    """

    frames: Any
    prompts: Sequence[str]
    shot_of_chunk: np.ndarray


@runtime_checkable
class FilmSource(Protocol):
    """Films by index.

    `pixels` makes uint8 video [n,H,W,3] of n frames of a film. It is a pure JAX function, so it
    runs on the VAE's device.
    """

    @property
    def pixels(self) -> Callable[[Any], UInt8[Array, "n h w 3"]]: ...

    def __getitem__(self, index: int) -> UnencodedFilm: ...


@dataclass(frozen=True)
class Paint:
    """The renderer as `FilmSource.pixels`. Equal sizes compare equal, so jit compiles once."""

    height: int
    width: int

    def __call__(self, frames: Float[Array, "n k f"]) -> UInt8[Array, "n h w 3"]:
        return render({"shapes": frames}, self.height, self.width, jnp)


@dataclass(frozen=True)
class StoryWorldFilms:
    """Story `index` of the collection `seed`. Held-out films have another seed."""

    world: WorldConfig
    seed: int

    def __getitem__(self, index: int) -> UnencodedFilm:
        story = sample_story(self.seed, index, self.world)
        return UnencodedFilm(
            scene_parameters(story)["shapes"], story.prompts(), story.shot_of_chunk()
        )

    @property
    def pixels(self) -> Paint:
        return Paint(self.world.height, self.world.width)


def storyworld_spec(
    films: StoryWorldFilms, count: int, vae: VAE, tokenizer: Tokenizer, text_len: int
) -> StoreSpec:
    """Returns the spec of a store of the first `count` films."""
    world, stride = films.world, vae.cfg.spatial_stride
    return StoreSpec(
        films=count,
        latent_frames=world.latent_frames,
        height=world.height // stride,
        width=world.width // stride,
        shots=world.max_shots,
        text_len=text_len,
        channels=vae.cfg.z_dim,
        source={"storyworld": asdict(world), "seed": films.seed},
        vae=vae_hash(vae),
        tokenizer=tokenizer_hash(tokenizer),
    )


def encode_films(
    vae: VAE,
    tokenizer: Tokenizer,
    source: FilmSource,
    writer: LatentStoreWriter,
    *,
    batch: int | None = None,
    shards: Sequence[range] | None = None,
    on_progress: Callable[[int], object] = lambda films: None,
) -> None:
    """Encodes pending shards; the caller calls `writer.finish()`.

    Args:
      vae, tokenizer: what encodes pixels and prompts.
      source: the films.
      writer: where they are written.
      batch: films encoded together (default: 1 on a CPU, 16 elsewhere).
      shards: those of `writer.pending()` to encode (default: all).
      on_progress: called with the number of films just written.

    Raises:
      UsageError: a prompt exceeds the store's text_len, or the VAE cannot encode the video's size.
      DataError: writing failed, or latents are not finite.
    """
    batch = batch or (1 if jax.default_backend() == "cpu" else 16)
    shards = writer.pending() if shards is None else shards
    batch = min(batch, sum(map(len, shards)))
    films = (
        _tokenised(source[index], tokenizer, writer.spec.text_len)
        for shard in shards
        for index in shard
    )
    encoded = _encoded(vae, source.pixels, films, batch)
    for shard in shards:
        records = [
            NewRecord(latents, token_ids, film.shot_of_chunk, film.prompts)
            for (film, token_ids), latents in itertools.islice(encoded, len(shard))
        ]
        writer.write(shard, records)
        on_progress(len(shard))


def _tokenised(
    film: UnencodedFilm, tokenizer: Tokenizer, text_len: int
) -> tuple[UnencodedFilm, np.ndarray]:
    token_ids, _ = tokenizer(film.prompts, text_len)
    return film, token_ids


def _encoded(
    vae: VAE, pixels: Callable, films: Iterator[tuple[UnencodedFilm, np.ndarray]], batch: int
) -> Iterator[tuple[tuple[UnencodedFilm, np.ndarray], np.ndarray]]:
    """Yields each of `films` with its latents [F,h,w,z], in order.

    One batch is on the device while the host makes the next.
    """
    in_flight = None
    while chosen := list(itertools.islice(films, batch)):
        padded = chosen + [chosen[-1]] * (batch - len(chosen))  # one shape compiles once
        frames = jax.tree.map(
            lambda *leaves: np.stack(leaves), *(film.frames for film, _ in padded)
        )
        latents = paint_and_encode(vae, frames, pixels)
        if in_flight:
            yield from zip(in_flight[0], np.asarray(in_flight[1]))
        in_flight = chosen, latents
    if in_flight:
        yield from zip(in_flight[0], np.asarray(in_flight[1]))


@partial(jax.jit, static_argnames=("pixels", "frames_per_step"))
def paint_and_encode(
    vae: VAE, frames: Any, pixels: Callable, frames_per_step: int = FRAMES_PER_STEP
) -> Float[Array, "b f h w z"]:
    """Returns the latents of B films from their per-frame inputs.

    Args:
      frames: a tree of arrays [B, T, ...].
      pixels: makes uint8 video [n,H,W,3] of the same tree with axes [n, ...].
      frames_per_step: video frames painted and encoded at a time.
    """
    length = jax.tree.leaves(frames)[0].shape[1]
    first = 1 + (length - 1) % frames_per_step

    def video(piece):
        return to_model_range(jax.vmap(pixels)(piece))

    def step(cache, piece):
        latents, cache = vae.encode_next(cache, video(piece))
        return cache, latents

    latents, cache = vae.encode_first(video(jax.tree.map(lambda x: x[:, :first], frames)))
    if length > first:
        rest = jax.tree.map(lambda x: _pieces(x[:, first:], frames_per_step), frames)
        _, later = jax.lax.scan(step, cache, rest)
        later = jnp.moveaxis(later, 0, 1)
        latents = jnp.concatenate(
            [latents, later.reshape(later.shape[0], -1, *later.shape[3:])], axis=1
        )
    return latents


def _pieces(x: Array, length: int) -> Array:
    """[B, n*length, ...] -> [n, B, length, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, length, *x.shape[2:]), 1, 0)


def encoding_dtype() -> Any:
    """Of the VAE that encodes: bfloat16 on accelerators, which is faster there, else float32."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def encoding_vae(model: Path, vae: VAE) -> VAE:
    """The VAE of `model` that encodes here; `vae` is the same in float32, which has its hash."""
    dtype = encoding_dtype()
    return vae if dtype == jnp.float32 else load_vae(model, dtype)


def vae_hash(vae: VAE) -> str:
    """Returns a hash of all that latents depend on: the encoder, mean and std; not the decoder.

    `vae` is in float32, whatever dtype encodes.
    """
    digest = hashlib.sha256(repr((vae.cfg.mean, vae.cfg.std)).encode())
    for path, leaf in jax.tree.leaves_with_path((vae.encoder, vae.conv1)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Returns a hash of the tokenizer's file, on which token ids depend."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return hashlib.sha256((Path(folder) / FILE_NAME).read_bytes()).hexdigest()[:16]
