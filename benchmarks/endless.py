"""A film of many chunks by a tiny network: the memory that it takes as it goes on.

The pool evicts, and frames go to film.mp4, as in a long live film. By design a film keeps its
chunks' latents, from which it can go back: these are counted apart. It also keeps the decoder's
cache at the beginning of each shot, up to 512 MiB: shots are long here, so that this is little.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_inputs import SUPPORT
from benchmarks.timing import process_bytes

SHOT_CHUNKS = 1000
LOOKS = 20  # at the process's memory
# Bytes beyond the latents. film.mp4's index takes about 900, which FFmpeg keeps until the end, and
# what is told of a chunk about as much. 4096 are 41 MB in 10,000 chunks, two hours of film.
MOST_PER_CHUNK = 4096


def endless(count: int, say: Callable[[str], None]) -> dict:
    """A film of `count` chunks; returns resident bytes along the way, and what each chunk left."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_models import tiny_model

    from causalcine_jax.config import MemoryConfig, PoolConfig
    from causalcine_jax.diffusion.solvers import SamplerConfig
    from causalcine_jax.film.director import Director
    from causalcine_jax.film.model_folder import latent_size
    from causalcine_jax.render.mp4 import FilmWriter

    sampler = SamplerConfig("few_step", steps=1, guidance=1.0)
    model = tiny_model(sampler=sampler, memory=MemoryConfig("camr", 1, 2))
    director, seen = Director(model, "A story.", pool=PoolConfig(18)), {}
    size = latent_size(model, *director.story.video.size)
    kept = 4 * model.chunk_frames * size[0] * size[1] * model.transformer.config.in_dim
    with (
        tempfile.TemporaryDirectory() as folder,
        FilmWriter(Path(folder) / "film.mp4", 16) as film,
    ):
        while (made := director.next_chunk) < count:
            caption = ("Mia waves.", "Otto sleeps.")[made // SHOT_CHUNKS % 2]
            director.add_shot(caption, chunks=min(SHOT_CHUNKS, count - made))
            for chunk in director:
                film.append(chunk.frames)
                if chunk.index + 1 == count or (chunk.index + 1) % max(1, count // LOOKS) == 0:
                    seen[chunk.index + 1] = _resident()
                    say(f"endless: {chunk.index + 1} chunks, {seen[chunk.index + 1]:,} bytes")
    # What a chunk keeps is taken off, so that a flat film shows two equal peaks.
    beyond = {made: bytes_ - kept * made for made, bytes_ in seen.items()}
    first = max(each for made, each in beyond.items() if made <= count / 2)
    second = max(each for made, each in beyond.items() if made > count / 2)
    grown = (second - first) / (count / 2)
    fault = {"bytes_per_chunk": round(grown), "allowed": MOST_PER_CHUNK}
    return {
        "count": count,
        "resident_bytes": {str(made): bytes_ for made, bytes_ in seen.items()},
        "latents_per_chunk": kept,
        "peak_without_latents": {"first half": first, "second half": second},
        "faults": [fault] if grown > MOST_PER_CHUNK else [],
        "summary": f"{seen[count] / 2**20:.0f} MiB at the end. Without the latents, which a film "
        f"keeps: {first / 2**20:.1f} MiB at most in the first half, {second / 2**20:.1f} in the "
        "second",
    }


def _resident() -> int:
    now = process_bytes()["in_use"]
    assert now, "this system does not tell a process's memory"
    return now
