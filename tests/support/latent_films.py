"""A small latent store of random films, and a way to damage it."""

import numpy as np

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.store_layout import StoreSpec

SPEC = StoreSpec(
    films=7,
    latent_frames=6,
    height=2,
    width=3,
    shots=3,
    text_len=5,
    channels=4,
    films_per_shard=3,
    source={"world": "test", "seed": 0},
    vae="v",
    tokenizer="t",
)


def record(film: int, spec: StoreSpec = SPEC) -> NewRecord:
    rng = np.random.default_rng(film)
    shots = 1 + film % spec.shots
    return NewRecord(
        latents=rng.normal(size=spec.shapes()["latents"]).astype(np.float32),
        token_ids=rng.integers(1, 99, (shots, spec.text_len), np.int32),
        shot_of_chunk=np.minimum(np.arange(spec.chunks), shots - 1),
        prompts=[f"film {film}, shot {shot}: ein Bär" for shot in range(shots)],
    )


def write_store(path, spec: StoreSpec = SPEC) -> LatentStore:
    writer = LatentStoreWriter(path, spec)
    for films in writer.pending():
        writer.write(films, [record(film, spec) for film in films])
    return writer.finish()


def damage(store: LatentStore, film: int, chunk: int) -> None:
    """Flips one bit in the latents of one chunk of one film."""
    wanted = (
        store[film]["latents"][store.spec.chunk_frames * chunk :][: store.spec.chunk_frames]
        .astype(np.float16)
        .tobytes()
    )
    for file in (store.path / "latents" / "c").rglob("*"):
        if file.is_file() and (at := file.read_bytes().find(wanted)) >= 0:
            data = bytearray(file.read_bytes())
            data[at + 1] ^= 1
            file.write_bytes(data)
            return
    raise AssertionError("chunk not found on disk")
