"""A film of many chunks by tiny networks: the memory that each chunk leaves behind.

The pool evicts, and frames go to film.mp4, as in a long live film. What a film keeps by design is
counted apart: the latents of every chunk, from which it can go back.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_inputs import SUPPORT

SHOT_CHUNKS = 8
SETTLED = 1 / 5  # of the film: compilation and buffers are over
MOST_PER_CHUNK = 4096  # bytes beyond the latents; 10,000 chunks then stay below 40 MB


def endless(count: int, say: Callable[[str], None]) -> dict:
    """A film of `count` chunks; returns resident bytes along the way, and bytes per chunk."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_models import tiny_model

    from causalcine_jax.config import MemoryConfig, PoolConfig
    from causalcine_jax.diffusion.solvers import SamplerConfig
    from causalcine_jax.film.director import Director
    from causalcine_jax.render.mp4 import FilmWriter

    sampler = SamplerConfig("few_step", steps=1, guidance=1.0)
    model = tiny_model(sampler=sampler, memory=MemoryConfig("camr", 1, 2))
    director, seen, latents = Director(model, "A story.", pool=PoolConfig(18)), {}, 0
    with tempfile.TemporaryDirectory() as folder:
        with FilmWriter(Path(folder) / "film.mp4", 16) as film:
            while director.next_chunk < count:
                caption = ("Mia waves.", "Otto sleeps.")[director.next_chunk // SHOT_CHUNKS % 2]
                chunks = min(SHOT_CHUNKS, count - director.next_chunk)
                director.add_shot(caption, chunks=chunks)
                for chunk in director:
                    film.append(chunk.frames)
                made = director.next_chunk
                if made in (count, *_settled(count)) or made % max(1, count // 20) < SHOT_CHUNKS:
                    seen[made] = _resident()
        height, width = 4, 8
        latents = 4 * model.chunk_frames * height * width * 16
    begun = min(made for made in seen if made >= SETTLED * count)
    grown = (seen[count] - seen[begun]) / max(1, count - begun)
    beyond = grown - latents
    say(f"chunks: {grown:.0f} bytes a chunk, {latents} of them latents")
    fault = [{"bytes_per_chunk": round(beyond), "allowed": MOST_PER_CHUNK}]
    return {
        "count": count,
        "resident_bytes": {str(made): size for made, size in seen.items()},
        "bytes_per_chunk": round(grown),
        "of_which_latents": latents,
        "faults": fault if beyond > MOST_PER_CHUNK and count >= 1000 else [],
        "summary": f"{grown:.0f} bytes a chunk, {latents} of them the latents that a film keeps",
    }


def _settled(count: int) -> tuple[int, ...]:
    return (round(SETTLED * count / SHOT_CHUNKS) * SHOT_CHUNKS,)


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024
